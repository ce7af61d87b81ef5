"""What each verb of a Submit does on an engine. Called by the executor, on the main thread."""

from __future__ import annotations

import contextlib
import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from mpiparallel.engine import usertrace
from mpiparallel.engine.functions import FunctionCache
from mpiparallel.engine.namespace import Namespace, UserModule
from mpiparallel.engine.output import OutputCapture
from mpiparallel.engine.world import user_names
from mpiparallel.error import RemoteError
from mpiparallel.wire import objects
from mpiparallel.wire.messages import Failure, Submit, Task
from mpiparallel.wire.references import resolve

MAX_TEXT = 64 << 10  # characters of an error's text, and of its traceback: headers are limited in size

_NONE: Any = object()


class CellError(Exception):
    """A cell raised; the traceback was rendered by IPython."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Verbs:
    """The user's namespace and everything a client can do to it.

    Parameters
    ----------
    engine_id, output
    lacks
        Asks the client of a message for a function, by digest.
    holding_interrupts
        Makes a context in which SIGINT does not interrupt.
    """

    def __init__(
        self,
        engine_id: int,
        output: OutputCapture,
        lacks: Callable[[Task], None],
        holding_interrupts: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._engine_id, self._output = engine_id, output
        self._lacks, self._holding_interrupts = lacks, holding_interrupts
        self.telling_interrupt: Callable[[], None] = lambda: None  # called when a cell ends by an interrupt
        self.module = UserModule("__main__", "The namespace of this engine.")
        self.names = self.module.__dict__
        self.names.update(user_names(engine_id), __builtins__=__builtins__)
        sys.modules["__main__"] = self.module
        self._namespace = Namespace(self.names)
        self._namespace.take_comm_back()
        self.functions = FunctionCache(self._namespace)
        self._shell: Any = None
        self.execution_count: int | None = None

    def run(self, message: Task) -> Any:
        """Do what a Submit asks and return its value. Raises what user code raises."""
        self.execution_count = None
        try:
            return getattr(self, f"_{message.header.verb}")(message)
        finally:
            self._namespace.record = {}  # holds on to what the request brought
            self._namespace.take_comm_back()

    def run_with(self, message: Task, comm: Any) -> Any:
        """Do what a Submit asks while ``comm`` is a gang's communicator in the namespace."""
        before = self.names.get("comm", _NONE)
        self.names["comm"] = comm
        try:
            return self.run(message)
        finally:
            if self.names.get("comm") is comm:  # else the task has put something else there
                if before is _NONE:
                    del self.names["comm"]
                else:
                    self.names["comm"] = before

    def give_comm(self, comm_at_hand: Callable[[Submit, bool], Any]) -> None:
        """Take what gives each request its communicator."""
        self._namespace.comm_at_hand = comm_at_hand

    # ------------------------------------------------------------ functions

    def _function(self, message: Task) -> Any:
        header, payload = message
        frames = payload[: header.function_frames]
        if not header.function:
            return objects.loads(frames, self._namespace)
        return self.functions.get(header.function, frames, lambda: self._lacks(message))

    def _arguments(self, message: Task) -> Any:
        return objects.loads(message.payload[message.header.function_frames :], self._namespace)

    def _apply(self, message: Task) -> Any:
        function = self._function(message)
        self._namespace.lend_comm(message.header)
        function = resolve(function, self.names)
        args, kwargs = self._arguments(message)
        args = [resolve(arg, self.names) for arg in args]
        kwargs = {name: resolve(arg, self.names) for name, arg in kwargs.items()}
        return function(*args, **kwargs)

    def _map(self, message: Task) -> list[Any]:
        function = self._function(message)
        self._namespace.lend_comm(message.header)
        function = resolve(function, self.names)
        chunks = [resolve(chunk, self.names) for chunk in self._arguments(message)]
        if not message.header.options.get("return_exceptions"):
            return list(map(function, *chunks))
        results = []
        for items in zip(*chunks, strict=False):
            try:
                results.append(function(*items))
            except Exception as error:  # the caller asked for the errors among the results
                failure = describe(error)
                info = {"engine_id": self._engine_id, "method": "apply"}
                results.append(RemoteError(failure.ename, failure.evalue, failure.traceback, info))
        return results

    # ------------------------------------------------------------ cells

    def _execute(self, message: Task) -> dict[str, Any]:
        code = objects.loads(message.payload, self._namespace)
        silent = bool(message.header.options.get("silent", True))
        self._namespace.lend_comm(message.header, code)
        shell = self.shell()
        if not silent:
            self._output.publish("execute_input", None, code)
        shell.stored_traceback = None
        outcome = shell.run_cell(code, store_history=not silent, silent=silent)
        self.execution_count = shell.execution_count - (0 if silent else 1)
        error = outcome.error_before_exec or outcome.error_in_exec
        if error is not None:
            lines = shell.stored_traceback
            text = "\n".join(lines) if lines else describe(error).traceback
            shell.stored_traceback = None
            raise CellError(Failure(type(error).__name__, _text(error), _shortened(text))) from error
        shell.show_stored_traceback()
        return {"execution_count": self.execution_count}

    def shell(self) -> Any:
        """Return the IPython shell, made at the first call."""
        if self._shell is None:
            # An import that is broken off half-way leaves modules behind that can never be imported again.
            with self._holding_interrupts(), _without_collecting():
                from mpiparallel.engine.shell import make_shell

                self._shell = make_shell(self.module, self._output, lambda: user_names(self._engine_id))
        return self._shell

    # ------------------------------------------------------------ names

    def _push(self, message: Task) -> None:
        for name, value in objects.loads(message.payload, self._namespace).items():
            self._assign(name, value)

    def _scatter(self, message: Task) -> None:
        self._assign(str(message.header.options["key"]), objects.loads(message.payload, self._namespace))

    def _assign(self, name: str, value: Any) -> None:
        if name.isidentifier():
            self.names[name] = value
            return
        self.names["_pushed_value"] = value
        try:
            exec(f"{name} = _pushed_value", self.names)
        finally:
            del self.names["_pushed_value"]

    def _pull(self, message: Task) -> Any:
        wanted = objects.loads(message.payload)
        self._namespace.lend_comm(message.header, wanted if isinstance(wanted, str) else " ".join(wanted))
        if isinstance(wanted, str):
            return self._value(wanted)
        return [self._value(name) for name in wanted]

    _gather = _pull

    def _value(self, name: str) -> Any:
        if name in self.names:
            return self.names[name]
        return eval(name, self.names)

    def _clear(self, message: Task) -> None:
        if self._shell is not None:
            self._shell.reset(new_session=False)
        keep = {name for name in self.names if name.startswith("__")}
        if self._shell is not None:
            keep |= {"In", "Out", "get_ipython", "exit", "quit", "open", "_ih", "_oh", "_dh"}
        for name in set(self.names) - keep:
            del self.names[name]
        self.names.update(user_names(self._engine_id))
        self._namespace.clear()
        self.functions.clear()


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Spare an import, which makes many objects and no garbage, the search for it: a sixth of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def describe(error: BaseException) -> Failure:
    """Return an exception as strings, without the frames that are ours."""
    if isinstance(error, CellError):
        return error.failure
    trace = usertrace.without_called(usertrace.without_callers(error.__traceback__))
    # With nothing but frames of ours left out, "Traceback" would promise frames that do not follow.
    lines = traceback.format_exception(type(error), error, trace or error.__traceback__)
    return Failure(type(error).__name__, _text(error), _shortened("".join(lines).rstrip()))


def _text(error: BaseException) -> str:
    try:
        return _shortened(str(error))
    except BaseException as second:  # user code's __str__ may even exit; the error must still be told
        return f"<{type(error).__name__} whose __str__ raised {type(second).__name__}>"


def _shortened(text: str) -> str:
    """Return `text`, or its beginning and its end when it is too long to travel."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - MAX_TEXT} characters left out ...\n{text[-half:]}"
