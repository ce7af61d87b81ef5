"""A controller with engines inside the test process: the test double for clients.

One thread answers on a private socket. Each engine is a namespace; requests run one after another, or
wait in the queue while `paused` is set, or run on and on where engines are in `holding`. Balanced tasks go to
engines by turns; timeouts are not looked at, and `after` is only checked for tasks that nobody knows.
"""

from __future__ import annotations

import functools
import io
import os
import socket
import threading
import time
import traceback
from pathlib import Path

import msgspec
import zmq

from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import RemoteError
from mpiparallel.wire import frames, objects
from mpiparallel.wire.messages import (
    NOBODY,
    Abort,
    Answer,
    Ask,
    Balance,
    Claim,
    Consumed,
    EngineInfo,
    EnginesChanged,
    Failure,
    Goodbye,
    Heartbeat,
    Hello,
    Lacks,
    Message,
    Output,
    Received,
    Refused,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    Welcome,
    Where,
)
from mpiparallel.wire.references import resolve
from mpiparallel.wire.waits import Place


class FakeEngine:
    """A namespace, and the functions it has been sent."""

    def __init__(self, number: int) -> None:
        self.info = EngineInfo(number, "world", number, 4, "here", os.getpid())
        self.functions: dict = {}
        self.waiting: dict[bytes, tuple] = {}  # tasks that lack a function
        self.count = 0
        self.clear()

    def clear(self) -> None:
        self.names = {"engine_id": self.info.id, "__name__": "__main__"}


class FakeController:
    """Answers clients as the real one does; `engines` of them to begin with."""

    def __init__(self, directory: Path, engines: int = 4) -> None:
        self.engines = {number: FakeEngine(number) for number in range(engines)}
        self.address = f"ipc://{directory}/fake.sock"
        self.info = ConnectionInfo(
            cluster_id="fake", role="client", version="0", host=socket.gethostname(), pid=os.getpid(),
            addresses=[], local=self.address, server_key="", public_key="", secret_key="",
        )  # fmt: skip
        self.clients: dict[str, bytes] = {}
        self.received: list = []  # headers, in order of arrival
        self.signals: list = []
        self.consumed: dict[int, int] = {}
        self.refuse: str | None = None
        self.silent = False
        self.paused = threading.Event()  # set: requests stay in the queue
        self.queue: list = []  # (identity, header, payload, engine)
        self.holding: set[int] = set()  # engines whose next task runs until it is interrupted
        self.held: dict[int, tuple] = {}  # the tasks that run so
        self.deaf: set[int] = set()  # engines which take no notice of signals
        self.mute = False  # whether nobody answers to Where
        self.places: dict[int, Place] = {}  # what Where says of engines, if not what is so
        self.commands: list = []
        self.functions: dict = {}  # the hub's, by digest
        self.lacking: dict[bytes, list] = {}  # Balances that wait for a function
        self.turn = 0
        self.left: dict[str, int] = {}  # retries, by balanced task
        self.ended: set[str] = set()  # balanced tasks
        self.taken: dict[bytes, int] = {}  # Results that each connection has received
        self.batches = 0
        self.kept: dict[str, list] = {}  # Results by task, for those who ask again
        self.strict = False  # whether strangers are refused
        self.start()

    # ---------------------------------------------------------------- for tests

    def start(self, address: str | None = None) -> None:
        """Begin, or begin again, here or at another address."""
        self.address = address or self.address
        self.info = msgspec.structs.replace(self.info, local=self.address)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.sndhwm = 0  # a ROUTER drops what is above
        self._socket.bind(self.address)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End without a word."""
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def kill(self, forget: bool = True) -> None:
        """End without a word; one that is started again knows nothing of what it had, unless told so."""
        self.close()
        self.clients.clear()
        self.taken.clear()
        if forget:
            for table in (self.queue, self.kept, self.functions, self.lacking, self.left, self.ended):
                table.clear()

    def call(self, function, *args) -> None:
        """Call in the controller's thread, and wait for it."""
        done = threading.Event()
        self.commands.append((function, args, done))
        assert done.wait(10)

    def release(self, client) -> None:
        """End a pause, when all that `client` has sent by now has arrived."""
        client._connection.ask(lambda query: Ask(query, "queue_status")).result(10)
        self.paused.clear()

    def tell_all(self, header, payload=()) -> None:
        for identity in self.clients.values():
            self._send(identity, header, payload)

    def add_engine(self, number: int) -> None:
        self.engines[number] = FakeEngine(number)
        self.tell_all(EnginesChanged(added=[self.engines[number].info]))

    def remove_engine(self, number: int, reason: str = "it was killed") -> None:
        del self.engines[number]
        for identity, header, _, engine in [item for item in self.queue if item[3] == number]:
            self._fail(identity, header, engine, reason)
        self.queue = [item for item in self.queue if item[3] != number]
        self.tell_all(EnginesChanged(removed=[number], reason=reason))

    def headers(self, kind: type) -> list:
        return [header for header in self.received if isinstance(header, kind)]

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            while self.commands:
                function, args, done = self.commands.pop(0)
                function(*args)
                done.set()
            while not self.paused.is_set():
                ready = [item for item in self.queue if item[3] not in self.held]
                if not ready:
                    break
                self.queue.remove(ready[0])
                if ready[0][3] in self.holding:
                    self.held[ready[0][3]] = ready[0]
                elif ready[0][1].options.get("gang"):
                    for number in ready[0][1].engines:
                        self._work(*ready[0][:3], number)
                else:
                    self._work(*ready[0])
            if self._socket.poll(5):
                identity, *parts = self._socket.recv_multipart(copy=False)
                self.batches += 1
                for header, payload in frames.unpack(parts):
                    self.received.append(header)
                    self._handle(bytes(identity), header, payload)
        self._socket.close(linger=100)
        self._context.term()

    def _send(self, identity: bytes, header, payload=()) -> None:
        self._socket.send_multipart([identity, *frames.pack([Message(header, payload)])], copy=False)

    def _handle(self, identity: bytes, header, payload) -> None:
        if self.silent:
            return
        if self.strict and not isinstance(header, Hello) and identity not in self.clients.values():
            reason = f"{type(header).__name__} from a peer that has not said Hello"
            self._send(identity, Refused(reason, getattr(header, "request", "")))
            return
        if isinstance(header, Hello):
            if self.refuse:
                self._send(identity, Refused(self.refuse))
                return
            self.clients[header.name] = identity
            self._send(identity, Welcome("0", "fake", [engine.info for engine in self.engines.values()], 5.0))
        elif isinstance(header, Submit):
            for engine, own in zip(header.engines, self._parts(header, payload), strict=True):
                if not (header.again and self._known(identity, f"{header.request}_{engine}", engine)):
                    self.queue.append((identity, header, [*payload[: header.common], *own], engine))
        elif isinstance(header, Balance):
            self._balance(identity, header, payload)
        elif isinstance(header, Received):
            self.taken[identity] = self.taken.get(identity, 0) + header.count
        elif isinstance(header, Supply) and header.engine == NOBODY:
            self.functions[header.function] = payload
            for item in self.lacking.pop(header.function):
                self._balance(*item)
        elif isinstance(header, Supply):
            engine = self.engines[header.engine]
            engine.functions[header.function] = payload
            self.queue[:0] = engine.waiting.pop(header.function)
        elif isinstance(header, Abort):
            for item in [item for item in self.queue if item[1].request == header.request]:
                if item[3] in header.engines:
                    self.queue.remove(item)
                    self._send(identity, Result(header.request, item[3], "aborted"))
            names = {f"{header.request}_{number}" for number in header.engines}
            for item in [item for item in self.queue if item[1].request in names]:
                self.queue.remove(item)
                self._send(identity, Result(item[1].request, NOBODY, "aborted"))
        elif isinstance(header, Consumed):
            self.consumed[header.engine] = self.consumed.get(header.engine, 0) + header.size
        elif isinstance(header, Claim):
            self._claim(identity, header)
        elif isinstance(header, Heartbeat):
            if header.echo:
                self._send(identity, Heartbeat())
        elif isinstance(header, Goodbye):
            self.clients = {name: other for name, other in self.clients.items() if other != identity}
        elif isinstance(header, Where):
            if not self.mute:
                places = [self.places.get(engine) or self._place(engine) for engine in header.engines]
                self._send(identity, Answer(header.query, places))
        else:
            self._answer(identity, header)

    def _balance(self, identity: bytes, header: Balance, payload) -> None:
        """Put the tasks into engines' queues, in turn."""
        if header.function_frames:
            self.functions[header.function] = payload[: header.function_frames]
        elif header.function and header.function not in self.functions:
            self.lacking.setdefault(header.function, []).append((identity, header, payload))
            self._send(identity, Lacks(header.client, NOBODY, header.function))
            return
        function = self.functions.get(header.function, [])
        common = payload[header.function_frames : header.common]
        rest = iter(payload[header.common :])
        for number, count in enumerate(header.parts, header.first):
            own = [next(rest) for _ in range(count)]
            task = f"{header.request}_{number}"
            if header.again and self._known(identity, task):
                continue
            engines = sorted(set(header.targets or self.engines) & set(self.engines))
            failure = self._hopeless(header, engines)
            if failure:
                self._send(identity, Result(task, NOBODY, "error", failure=failure))
                continue
            self.left[task] = header.retries
            chosen = sorted(engines[(self.turn + i) % len(engines)] for i in range(header.ranks))
            self.turn += 1
            submit = Submit(
                task, header.client, header.verb, chosen, len(function) + len(common), [count] * header.ranks,
                header.function, len(function), {**header.options, "gang": header.ranks > 1}, header.label,
            )  # fmt: skip
            self.queue.append((identity, submit, [*function, *common, *own], chosen[0]))

    def _known(self, identity: bytes, task: str, engine: int | None = None) -> bool:
        """Whether a task is queued, or has ended: then its results are sent once more."""
        for index, item in enumerate(self.queue):
            name = item[1].request if engine is None else f"{item[1].request}_{item[3]}"
            if name == task and engine in (None, item[3]):
                self.queue[index] = (identity, *item[1:])
                return True
        for header, payload in self.kept.get(task, []):
            self._send(identity, header, payload)
        return task in self.kept

    def _claim(self, identity: bytes, header: Claim) -> None:
        queued = {item[1].request for item in self.queue}
        queued |= {f"{item[1].request}_{item[3]}" for item in self.queue}
        unknown = [task for task in header.tasks if task not in self.kept and task not in queued]
        about = {"verb": "apply", "submitted": 0.0, "label": "", "ranks": 0}
        tasks = {task: about for task in header.tasks if task not in unknown}
        self._send(identity, Answer(header.query, {"unknown": unknown, "tasks": tasks}))
        for task in tasks:
            if not self._known(identity, task):
                self._known(identity, task, int(task.rpartition("_")[2]))

    def _hopeless(self, header: Balance, engines: list[int]) -> Failure | None:
        known = self.ended | {item[1].request for item in self.queue} | set(self.left)
        if header.ranks > len(engines):
            return Failure("ImpossibleDependency", f"{header.ranks} engines wanted, {len(engines)} there")
        for needs in (header.after, header.follow):
            for task in needs.tasks if needs else ():
                if task not in known:
                    return Failure("InvalidDependency", f"no task {task}")
        return None

    def _again(self, item: tuple) -> bool:
        """Queue a balanced task that has failed for another engine, if it has retries left."""
        identity, header, payload, number = item
        if not self.left.get(header.request):
            return False
        self.left[header.request] -= 1
        others = sorted(set(self.engines) - {number}) or [number]
        chosen = msgspec.structs.replace(header, engines=[others[0]])
        self.queue.append((identity, chosen, payload, others[0]))
        return True

    def _place(self, number: int) -> Place:
        if number in self.held:
            request = self.held[number][1]
            return Place(number, "running", request.request, request.client, 1.0)
        return Place(number, "idle")

    def _interrupt(self, number: int) -> None:
        if number in self.held and number not in self.deaf:
            identity, header, _, _ = self.held.pop(number)
            self._send(identity, Output(header.request, header.client, number, "stdout", "last words\n", 10))
            failure = Failure("KeyboardInterrupt", "", "Traceback: KeyboardInterrupt")
            self._send(identity, Result(header.request, number, "error", failure=failure))

    def _parts(self, header: Submit, payload) -> list:
        if not header.parts:
            return [[] for _ in header.engines]
        rest = iter(payload[header.common :])
        return [[next(rest) for _ in range(count)] for count in header.parts]

    def _answer(self, identity: bytes, header) -> None:
        value, failure = None, None
        if isinstance(header, Signal):
            self.signals.append((header.engines, header.signum))
            for engine in header.engines:
                self._interrupt(engine)
        elif isinstance(header, Stop):
            for engine in header.engines:
                self.remove_engine(engine, "it was stopped")
        elif isinstance(header, Ask) and header.what == "queue_status":
            value = {
                str(number): {
                    "queue": sum(item[3] == number for item in self.queue),
                    "completed": 0,
                    "tasks": 0,
                }
                for number in header.engines or self.engines
            }
            value["unassigned"] = 0
        elif isinstance(header, Ask) and header.what == "result_status":
            failure = Failure("KeyError", f"no task {header.msg_ids[0]}")
        self._send(identity, Answer(header.query, value, failure))
        if isinstance(header, Stop) and header.controller:
            self.tell_all(Goodbye("it was shut down"))

    # ---------------------------------------------------------------- engines

    def _fail(self, identity, header, number, reason) -> None:
        task = f"{header.request}_{number}"
        failure = Failure("EngineError", f"Engine {number} died while running task {task}: {reason}")
        self._send(identity, Result(header.request, number, "error", failure=failure))

    def _work(self, identity, header: Submit, payload, number: int) -> None:
        engine = self.engines.get(number)
        if engine is None:
            self._fail(identity, header, number, "it does not exist")
            return
        item = (identity, header, payload, number)
        function, rest = payload[: header.function_frames], payload[header.function_frames :]
        if function:
            engine.functions[header.function] = function
        elif header.function and header.function not in engine.functions:
            engine.waiting.setdefault(header.function, []).append(item)
            self._send(identity, Lacks(header.client, number, header.function))
            return
        started = time.time()

        def output(kind: str, text: str = "", content=None) -> None:
            payload = objects.dumps(content) if content is not None else ()
            out = Output(header.request, header.client, number, kind, text, len(text) or 10)
            self._send(identity, out, payload)

        printed = io.StringIO()
        engine.names.update(_output=output, print=functools.partial(print, file=printed))
        failure, value = None, None
        try:
            value = self._do(engine, header, objects.copied(rest), output)
            payload = objects.dumps(value) if value is not None else ()
        except Exception as error:
            failure = Failure(type(error).__name__, str(error), traceback.format_exc())
            payload = ()
        if printed.getvalue():
            output("stdout", printed.getvalue())
        if failure is not None and header.verb == "execute":
            for item in [item for item in self.queue if item[0] == identity and item[3] == number]:
                self.queue.remove(item)
                self._send(identity, Result(item[1].request, number, "aborted"))
        if failure is not None and self._again(item):
            return
        status = "ok" if failure is None else "error"
        if header.request in self.left:
            self.ended.add(header.request)
        result = Result(header.request, number, status, started, time.time(), failure, engine.count)
        name = header.request if header.request in self.left else f"{header.request}_{number}"
        self.kept.setdefault(name, []).append((result, payload))
        self._send(identity, result, payload)

    def _do(self, engine: FakeEngine, header: Submit, rest, output):
        names, verb = engine.names, header.verb
        content = objects.loads(rest) if rest else None
        function = None
        if header.function:
            space = objects.MainNamespace(names)
            function = resolve(objects.loads(engine.functions[header.function], space), names)
        if verb == "apply":
            args, kwargs = content
            return function(
                *[resolve(arg, names) for arg in args],
                **{key: resolve(value, names) for key, value in kwargs.items()},
            )
        if verb == "map":
            items = zip(*[resolve(chunk, names) for chunk in content], strict=True)
            return [self._item(function, item, header.options["return_exceptions"]) for item in items]
        if verb == "execute":
            return self._execute(engine, content, output if not header.options["silent"] else None)
        if verb == "push":
            for key, value in content.items():
                names["_pushed"] = value
                exec(f"{key} = _pushed", names)
        elif verb == "pull":
            return (
                eval(content, names) if isinstance(content, str) else [eval(name, names) for name in content]
            )
        elif verb == "scatter":
            names["_pushed"] = content
            exec(f"{header.options['key']} = _pushed", names)
        elif verb == "gather":
            return eval(content, names)
        elif verb == "clear":
            engine.clear()
        return None

    def _item(self, function, item, return_exceptions):
        try:
            return function(*item)
        except Exception as error:
            if not return_exceptions:
                raise
            return RemoteError(type(error).__name__, str(error), traceback.format_exc())

    def _execute(self, engine: FakeEngine, code: str, output) -> dict:
        if output is not None:
            engine.count += 1
            output("execute_input", code)
        *lines, last = code.rstrip().splitlines()
        try:
            expression = compile(last, "<cell>", "eval")
        except SyntaxError:
            exec(code, engine.names)
        else:
            exec("\n".join(lines), engine.names)
            value = eval(expression, engine.names)
            if value is not None and output is not None:
                content = {
                    "data": {"text/plain": repr(value)},
                    "metadata": {},
                    "execution_count": engine.count,
                }
                output("execute_result", content=content)
        return {"execution_count": engine.count}
