"""The controller's only sockets, and the one thread and loop that own them.

`__main__` makes a `Server` and calls `run`. What flows where::

    tcp ROUTER  (CURVE, one port) ──┐                         ┌── control lane first, batched per peer
    ipc ROUTER  (private socket)  ──┼─► unpack ─► hub ─► Outgoing ─► the peer's own ROUTER
    pidfds, clock (lost, tick)    ──┘
    ZAP REP     ◄── ZeroMQ asks whose key this is; answered here
    lifeline fd, signals          ──► shut down

Whatever a peer sends, the others are served: bad bytes and bad messages are answered by Refused, counted, and
logged once for each peer.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import zmq

from mpiparallel import __version__
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo, Role
from mpiparallel.controller import places, restore
from mpiparallel.controller.hub import Hub
from mpiparallel.controller.keys import Keys
from mpiparallel.controller.outgoing import Outgoing, Sent
from mpiparallel.controller.sockets import Route, Sockets
from mpiparallel.controller.state import Peer, Send
from mpiparallel.controller.store import Store
from mpiparallel.controller.tables import Limits
from mpiparallel.controller.watch import Watch
from mpiparallel.error import LaunchError, WireError
from mpiparallel.wire.frames import unpack
from mpiparallel.wire.messages import (
    Balance,
    EnginesLost,
    Hello,
    HelloWorld,
    Message,
    Refused,
    Signal,
    Submit,
)

log = logging.getLogger(__name__)

DRAIN = 64  # batches taken from a socket in one round
DRAIN_BYTES = 4 << 20
CHECK_EVERY = 0.5  # seconds between looks at the clock and at processes
STOP_PATIENCE = 5.0  # seconds that worlds have to say goodbye
FLUSH_PATIENCE = 1.0  # seconds that the last messages have to leave
MAX_NOTED = 10_000  # peers remembered for having been complained about


class Server:
    """One controller.

    Parameters
    ----------
    directory : Path
        Where the connection files go.
    lifeline : int, optional
        A file descriptor at whose end the controller ends.
    remove_directory, keep_results : bool
        Whether to remove `directory` in the end; and if so, whether not the results in it.
    earlier : Saved, optional
        What a controller that was killed has left: this one goes on in its place.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        *,
        cluster_id: str = "",
        ip: str = "127.0.0.1",
        port: int = 0,
        lifeline: int | None = None,
        remove_directory: bool = False,
        keep_results: bool = False,
        earlier: restore.Saved | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.lifeline, self.ip = lifeline, ip
        self.remove_directory, self.keep_results = remove_directory, keep_results
        self.keys = Keys.new() if earlier is None else earlier.keys
        self.host = socket.gethostname()
        about = {"host": self.host, "pid": os.getpid(), "started": time.time(), "version": __version__}
        self.hub = Hub(
            cluster_id, about, config.heartbeat, config.lost_after, scheme=config.scheme, hwm=config.hwm
        )
        self.hub.state.idle_timeout = config.idle_timeout
        self.outgoing = Outgoing(self._send)
        self.watch = Watch(self.hub, self.host)
        self.hurry = False  # a second signal: wait for nobody
        self.store = Store(directory, Limits.of(config), again=earlier is not None)
        self.hub.state.storing, self.hub.state.find = config.store, self.store.find
        self._noted: set[object] = set()
        self._look_at = 0.0
        self._stop_at: float | None = None
        self._ask_to_stop = ""
        self.hub.state.instance = secrets.token_hex(8)
        self.sockets = self._listen(port, earlier)
        if earlier is not None:
            self._take_over(earlier)

    def _listen(self, port: int, earlier: restore.Saved | None) -> Sockets:
        if earlier is None:
            return Sockets(self.keys, self.ip, port, self.config.max_frame)
        directory = Path(earlier.socket_dir)
        try:
            return Sockets(self.keys, self.ip, port or earlier.port, self.config.max_frame, directory)
        except LaunchError as error:
            if port:
                raise
            log.warning("%s; taking another port", error)
            return Sockets(self.keys, self.ip, 0, self.config.max_frame, directory)

    def _take_over(self, earlier: restore.Saved) -> None:
        """Begin with the worlds of an earlier run, and look which of their processes live."""
        now = time.monotonic()
        found = [(restore.to_world(one, now), one.stopped) for one in earlier.worlds]
        self.hub.restore(found, earlier.next_engine, now, self.store.waiting, self.store.ended)
        self.store.waiting = []
        for one in earlier.worlds:
            self._put(self.watch.resume(one.hello.name, one.watched, now))
        names = ", ".join(one.hello.name for one in earlier.worlds) or "it had none"
        log.warning("going on where an earlier controller was killed; its worlds: %s", names)

    # ------------------------------------------------------------ the start and the end

    def connection_info(self, role: Role) -> ConnectionInfo:
        pair = self.keys.client if role == "client" else self.keys.engine
        return ConnectionInfo(
            cluster_id=self.hub.state.cluster_id,
            role=role,
            version=__version__,
            host=self.host,
            pid=os.getpid(),
            job=self.config.job,
            addresses=self.sockets.addresses,
            local=self.sockets.local_address,
            server_key=self.keys.server.public, public_key=pair.public, secret_key=pair.secret,
        )  # fmt: skip

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Close the sockets and remove the files; after an error they stay, for who takes our place."""
        self.watch.close()
        self.sockets.close()
        self.store.put(self.hub.take_records())
        self.store.close()
        if kind is not None:
            return
        places.remove_files(self.directory, self.keys.server.public, self.remove_directory, self.keep_results)

    def stop(self, reason: str) -> None:
        """Ask the loop to end (from a signal handler, or the loop itself); asking again makes it hurry."""
        if self._ask_to_stop:
            self.hurry = True
        self._ask_to_stop = self._ask_to_stop or reason

    # ------------------------------------------------------------ the loop

    def run(self, wakeup: int | None = None) -> None:
        """Serve until somebody asks to stop. `wakeup` is a file descriptor that signals make readable."""
        self._save()
        places.write_files(self.directory, [self.connection_info("client"), self.connection_info("engine")])
        log.info(
            "controller %s serves %s",
            self.hub.state.cluster_id or "(no id)",
            ", ".join(self.sockets.addresses),
        )
        poller = zmq.Poller()
        sources = [self.sockets.zap, wakeup, self.lifeline, self.watch.descriptor, self.store.descriptor]
        for source in (*self._listening(), *sources):
            if source is not None:
                poller.register(source, zmq.POLLIN)
        reading = True
        while True:
            ready = dict(poller.poll(self._timeout()))
            now = time.monotonic()
            self._serve(ready, wakeup, poller, now)
            self._keep(self.store.descriptor in ready, now)
            if self.hub.state.changed:
                self._save()  # before a world hears that it was taken in
            self._flush(now)
            if self._is_over(now):
                return
            room = self.outgoing.nbytes <= self.config.max_backlog
            if room is not reading:
                reading = room
                for router in self._listening():
                    poller.modify(router, zmq.POLLIN if reading else 0)
                log.warning(
                    "reading again" if reading else "not reading: too much waits for peers that do not"
                )

    def _save(self) -> None:
        """Write down what a controller started in our place has to know."""
        state = self.hub.state
        state.changed = False
        saved = restore.Saved(
            __version__,
            self.host,
            state.cluster_id,
            self.ip,
            self.sockets.port,
            str(self.sockets.directory),
            self.keys,
            state.next_engine,
            restore.saved_worlds(state),
        )
        restore.write(self.directory, saved)

    def _listening(self) -> list[zmq.Socket[bytes]]:
        return [self.sockets.local, self.sockets.tcp]

    def _timeout(self) -> int:
        now = time.monotonic()
        wait = max(0.0, self._due(now) - now)
        if self.outgoing.stalled:  # ROUTER does not say when one peer can take more
            wait = min(wait, self.outgoing.retry_after(now))
        return int(wait * 1000) + 1

    def _serve(self, ready: dict[Any, int], wakeup: int | None, poller: zmq.Poller, now: float) -> None:
        if self.sockets.zap in ready:
            self._authenticate()
        for router in self._listening():
            if router in ready:
                self._read(router, now)
        if wakeup is not None and wakeup in ready:
            os.read(wakeup, 512)  # the handlers have run already
        if self.lifeline is not None and self.lifeline in ready:
            self._read_lifeline(ready[self.lifeline], poller)
        if self.watch.descriptor in ready or now >= self._due(now):
            self._check(now)
        if self._ask_to_stop and not self.hub.stopping:
            self._put(self.hub.shut_down(self._ask_to_stop, now))

    def _keep(self, answered: bool, now: float) -> None:
        """Give the store what has ended, and take from it what it has written and looked up."""
        self.store.put(self.hub.take_records())
        for errand in self.hub.take_errands():
            self.store.ask(errand, errand.read)
        if not answered:
            return
        tasks, answers = self.store.take()
        if tasks:
            self._put(self.hub.stored(tasks, now))
        for errand, value, error in answers:
            self._put(self.hub.found(errand, value, error, now))

    def _read_lifeline(self, event: int, poller: zmq.Poller) -> None:
        assert self.lifeline is not None
        if event & zmq.POLLIN and os.read(self.lifeline, 512):
            return
        poller.unregister(self.lifeline)
        self.lifeline = None
        self.stop("whoever started the controller has ended, or has stopped it")

    def _authenticate(self) -> None:
        while True:
            try:
                question = self.sockets.zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            reply, refused = self.keys.answer(question)
            self.sockets.zap.send_multipart(reply)
            if refused:
                self.hub.state.counters["connections with a wrong key"] += 1
                self._note(("key", refused), "a connection from %s with a key of another controller", refused)

    def _read(self, router: zmq.Socket[bytes], now: float) -> None:
        room = DRAIN_BYTES
        for _ in range(DRAIN):
            received = self.sockets.receive(router)
            if received is None:
                return
            self._receive(*received, now)
            room -= sum(map(len, received[1]))
            if room < 0:
                return

    def _receive(self, sender: Route, frames: list[zmq.Frame], now: float) -> None:
        try:
            messages = unpack(frames)
        except WireError as error:
            self.hub.state.counters["malformed messages"] += 1
            self._note(sender, "malformed message from %s: %s", sender, error)
            self.outgoing.put(sender, Message(Refused(str(error))))
            return
        for message in messages:
            self._hand_over(sender, message, now)

    def _hand_over(self, sender: Route, message: Message, now: float) -> None:
        header = message.header
        try:
            if type(header) is EnginesLost:
                message = Message(self.watch.without_our_own(sender, header, now))
            sends = self.hub.receive(sender, message, now, sender.role)
            self._put(sends)
            if len(sends) == 1 and isinstance(sends[0].message.header, Refused):
                self._note(sender, "refused to %s: %s", sender, sends[0].message.header.reason)
            if type(header) is Hello or type(header) is HelloWorld:
                self._put(self.watch.begin(sender, now))
        except Exception as error:
            # A bug of ours that one message brings out must not end the work of everybody else. The sender is
            # told, so that it does not wait; the traceback is in the log.
            log.exception("%s from %s", type(header).__name__, sender)
            self.hub.state.counters["internal errors"] += 1
            request = header.request if isinstance(header, Submit | Balance) else ""
            reason = f"internal error of the controller at {type(header).__name__}: {error!r}"
            self.outgoing.put(sender, Message(Refused(reason, request)))

    def _put(self, sends: list[Send]) -> None:
        put = self.outgoing.put
        for peer, message in sends:
            if type(message.header) is Signal:
                for left in self.watch.deliver(peer, message.header):
                    put(peer, Message(left))
            else:
                put(peer, message)

    def _note(self, key: object, text: str, *arguments: object) -> None:
        """Log a complaint, once for each key."""
        if key not in self._noted:
            if len(self._noted) >= MAX_NOTED:
                self._noted.clear()
            self._noted.add(key)
            log.warning(text, *arguments)

    # ------------------------------------------------------------ sending

    def _send(self, peer: Peer, frames: list[Any]) -> Sent:
        assert isinstance(peer, Route)
        sent = self.sockets.send(peer, frames)
        if sent is Sent.FULL and peer not in self.hub.state.peers and not self.hub.stopping:
            return Sent.GONE  # nothing is kept for those who are not, or no longer, taken in
        return sent

    def _flush(self, now: float) -> None:
        while True:
            gone = self.outgoing.flush(now)
            if not gone:
                return
            self._put(self.watch.check(now, thorough=True))  # the end of a process is the better reason
            for peer in gone:
                self.outgoing.forget(peer)
                self._put(self.watch.cut(peer, "its connection to the controller is closed", now))

    # ------------------------------------------------------------ who is still there

    def _check(self, now: float) -> None:
        """Look at what only time and processes tell."""
        regular = now >= self._look_at
        if regular:
            self._look_at = now + CHECK_EVERY
        self._put(self.watch.check(now, thorough=regular))
        if not regular and now < self.hub.due(now):
            return
        if self.outgoing.nbytes <= self.config.max_backlog:  # else nobody is heard, and silence says nothing
            self._put(self.hub.tick(now))
        for peer in self.outgoing.stuck(now, self.config.max_backlog):
            self._lose(peer, "it did not read for long and held up much data", now)

    def _due(self, now: float) -> float:
        """Return when `_check` is to be called next."""
        return min(self._look_at, self.watch.due(now), self.hub.due(now))

    def _lose(self, peer: Peer, reason: str, now: float) -> None:
        self.outgoing.forget(peer)
        self._put(self.watch.lose(peer, reason, now))

    # ------------------------------------------------------------ stopping

    def _is_over(self, now: float) -> bool:
        """Lead the shutdown on; return whether it is complete."""
        if not self.hub.stopping:
            return False
        if self._stop_at is None:
            log.info("shutting down: %s", self.hub.stopping)
            self._stop_at = now + STOP_PATIENCE
        worlds = list(self.hub.state.worlds.values())
        if worlds and now < self._stop_at and not self.hurry:
            self._look_at = min(self._look_at, self._stop_at)
            return False
        for world in worlds:
            killed = self.watch.kill_bridge(world)
            log.warning(
                "world %s did not stop in time%s", world.name, ": rank 0 was killed" if killed else ""
            )
            if world.peer is not None:
                self._put(self.hub.lost(world.peer, "it did not stop in time", now))
        self._put(self.hub.farewell())
        self._last_words()
        return True

    def _last_words(self) -> None:
        """Give what waits for clients a moment to leave."""
        deadline = time.monotonic() + FLUSH_PATIENCE
        now = time.monotonic()
        while now < deadline:
            self._flush(now)
            if not self.outgoing.stalled:
                return
            time.sleep(0.005)
            now = time.monotonic()
