"""The IPython shell of an engine, made when the first cell comes.

Its displays and results go to the client; its tracebacks are kept for the reply.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import linecache
import os
import shutil
import signal
import subprocess
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from mpiparallel.engine import asking, parsedsources
from mpiparallel.engine.output import OutputCapture
from mpiparallel.engine.usertrace import without_called
from mpiparallel.engine.verbs import describe

MAX_SOURCES = 10_000  # cells whose text is kept for tracebacks
WIDGET = "application/vnd.jupyter.widget-view+json"
INLINE = "module://matplotlib_inline.backend_inline"

_output: OutputCapture  # of this process: there is one shell


def _portable(data: dict[str, Any]) -> dict[str, Any]:
    """Return a MIME bundle as the client's front end can show it.

    Widgets live in the process that made them, so their text stands for them.
    """
    return {
        kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for kind, value in data.items()
        if kind != WIDGET or "text/plain" not in data
    }


class _Publisher(DisplayPublisher):
    def publish(
        self, data: Any, metadata: Any = None, source: Any = None, *,
        transient: Any = None, update: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        content = {"data": _portable(data), "metadata": metadata or {}}
        _output.publish("display", {**content, "transient": transient or {}, "update": update})

    def clear_output(self, wait: bool = False) -> None:
        _output.publish("clear_output", {"wait": wait})


class _Hook(DisplayHook):
    def write_output_prompt(self) -> None:
        """Leave the prompt to the client, which knows the engine's id."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        content = {"data": _portable(format_dict), "metadata": md_dict or {}}
        _output.publish("execute_result", {**content, "execution_count": self.prompt_count})

    def log_output(self, format_dict: Any) -> None:
        """Keep nothing: results are in ``Out``, and what was shown is the client's."""

    def finish_displayhook(self) -> None:
        self._is_active = False


class _Compiler(CachingCompiler):
    """Forgets the text of the oldest cells: loops send cells without end."""

    def __init__(self) -> None:
        super().__init__()
        self._sources: OrderedDict[str, None] = OrderedDict()

    def cache(self, *args: Any, **kwargs: Any) -> str:
        name: str = super().cache(*args, **kwargs)
        self._sources[name] = None
        self._sources.move_to_end(name)
        while len(self._sources) > MAX_SOURCES:
            old, _ = self._sources.popitem(last=False)
            linecache.cache.pop(old, None)
            self._filename_map.pop(old, None)
        return name


class _NoDebugger:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UsageError(asking.NO_DEBUGGER)


class EngineShell(InteractiveShell):
    """An IPython shell without a terminal."""

    displayhook_class = _Hook
    display_pub_class = _Publisher
    compiler_class = _Compiler
    debugger_cls = _NoDebugger

    stored_traceback: list[str] | None = None
    _depth = 0
    first_names: Callable[[], dict[str, Any]] = staticmethod(dict)  # what a namespace holds from the start

    telling_interrupt: Callable[[], None] = staticmethod(lambda: None)  # called before one is rendered

    # ------------------------------------------------------------ errors

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        etype, evalue, trace = super()._get_exc_info(exc_tuple)
        return etype, evalue, without_called(trace)

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        self.show_stored_traceback()  # the last is that of the cell's error
        self.stored_traceback = [str(line) for line in stb]
        parsedsources.note_traceback()

    def show_stored_traceback(self) -> None:
        """Print a traceback that is not the cell's error: of a repr that failed, of ``%tb``."""
        stored, self.stored_traceback = self.stored_traceback, None
        if stored:
            print("\n".join(stored), file=sys.stderr)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        error = (exc_tuple or sys.exc_info())[1]
        if isinstance(error, KeyboardInterrupt):
            self.telling_interrupt()
        group: type[BaseException] | None = getattr(builtins, "BaseExceptionGroup", None)
        if group is not None and isinstance(error, group):  # IPython would print it
            self._showtraceback(type(error), error, [describe(error).traceback])
        else:
            super().showtraceback(exc_tuple, *args, **kwargs)

    def show_usage_error(self, exc: Any) -> None:
        self.stored_traceback = [f"UsageError: {exc}"]

    def run_cell(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell. An error of a cell within a cell, by ``%%capture`` or ``%rerun``, is that of both."""
        self._depth += 1
        try:
            result = super().run_cell(*args, **kwargs)
        finally:
            self._depth -= 1
        if self._depth and not result.success:
            self.stored_traceback = None
            result.raise_error()
        return result

    # ------------------------------------------------------------ nobody is there

    def _tee(self, channel: Any) -> Any:
        """Keep no copy of what is printed, as IPython does for ``%notebook``: memory would grow with it."""
        return contextlib.nullcontext()

    def init_io(self) -> None:
        """Keep the streams as they are: they are captured below Python."""

    def enable_gui(self, gui: Any = None) -> None:
        """Accept any event loop's name: there is no window here."""

    def ask_exit(self) -> None:
        raise SystemExit("an engine does not leave by exit(); use client.shutdown()")

    def debugger(self, force: bool = False) -> None:
        raise UsageError(asking.NO_DEBUGGER)

    @property
    def call_pdb(self) -> bool:
        """Whether errors start a debugger: never."""
        return False

    @call_pdb.setter
    def call_pdb(self, value: bool) -> None:
        if value:
            raise UsageError(asking.NO_DEBUGGER)

    def set_next_input(self, s: str, replace: bool = False) -> None:
        """Print what a prompt would be filled in with, by ``%load`` for one."""
        print(s)

    # ------------------------------------------------------------ namespace

    def init_user_ns(self) -> None:
        super().init_user_ns()
        names = self.first_names()
        self.user_ns.update(names)
        self.user_ns_hidden.update(names)  # %who lists the user's own

    # ------------------------------------------------------------ files and commands

    def safe_execfile(self, fname: Any, *where: Any, **options: Any) -> None:
        """Run a file for ``%run``; its errors are the cell's, for other ranks may wait for this one."""
        __tracebackhide__ = True
        super().safe_execfile(fname, *where, **{**options, "raise_exceptions": True})

    def system(self, cmd: str) -> None:
        """Run a shell command; its output takes the way of all output."""
        sys.stdout.flush()
        try:
            self.user_ns["_exit_code"] = _run_command(self.var_expand(cmd, depth=1))
        except KeyboardInterrupt as interrupt:  # where subprocess was then says nothing to anybody
            raise interrupt.with_traceback(None) from None

    system_raw = system
    system_piped = system


def _run_command(command: str) -> int:
    """Run a command in the user's shell; when we are interrupted, all its processes end."""
    shell = shutil.which(os.environ.get("SHELL") or "sh")
    process = subprocess.Popen(
        command, shell=True, executable=shell, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait()
    except BaseException:
        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, signum)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                    break
        finally:  # also when we are interrupted once more
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        raise


class _Loop:
    """The event loop of cells that await. Tasks that one cell begins go on in the next."""

    def __init__(self) -> None:
        self._loop: Any = None

    def run(self, coroutine: Any) -> Any:
        """Run a cell. Interrupted, it is cancelled, and does not go on in the next cell."""
        import asyncio

        if self._loop is None or self._loop.is_closed():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                try:
                    self._loop = asyncio.get_event_loop()  # which cells may have used already
                except RuntimeError:
                    self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task], timeout=5))
            raise


def _show_page(shell: Any, data: Any, start: int = 0, screen_lines: int = 0) -> None:
    """Print what a pager would show."""
    text = data.get("text/plain", "") if isinstance(data, dict) else data
    print("\n".join(text.splitlines()[start:]))


def make_shell(
    module: types.ModuleType, output: OutputCapture, first_names: Callable[[], dict[str, Any]]
) -> EngineShell:
    """Return the shell whose user module is `module`; a reset puts what `first_names` gives there."""
    global _output
    _output = output
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    EngineShell.first_names = staticmethod(first_names)
    shell = EngineShell.instance(user_module=module, user_ns=module.__dict__, config=config)
    shell.loop_runner = _Loop().run
    shell.set_hook("show_in_pager", _show_page, 0)
    asking.refuse_in_shell(shell)
    # What exit() says at a terminal prompt.
    warnings.filterwarnings("ignore", "To exit: use", UserWarning)
    # Figures are shown in the notebook, as in a Jupyter kernel, also without %matplotlib inline.
    os.environ.setdefault("MPLBACKEND", INLINE)
    shell.builtin_trap.activate()  # get_ipython and display are there in applied functions, too
    sys.modules["__main__"] = module
    return shell
