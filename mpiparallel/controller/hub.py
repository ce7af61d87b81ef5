"""The hub: who is there, which engine is where, which task is open. A function of its inputs.

The server gives it messages and losses together with the time and sends what comes back. There is no clock,
socket, thread or file in here::

    hub.receive(sender, message, now)  ->  [Send(peer, message), ...]
    hub.lost(peer, reason, now)        ->  ...   (it is gone)
    hub.cut(peer, reason, now)         ->  ...   (it may be back)
    hub.tick(now)                      ->  ...

Everything is forgotten when its owner goes, except the bounded record of finished tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mpiparallel.connection_file import Role
from mpiparallel.controller import (
    answers,
    balance,
    claims,
    clients,
    delivery,
    departed,
    idling,
    nobody,
    questions,
    worlds,
)
from mpiparallel.controller.handlers import CLIENT_WORK, WORLD_WORK
from mpiparallel.controller.lives import WorldEvent, WorldState
from mpiparallel.controller.permitted import PERMITTED
from mpiparallel.controller.records import Entry, Record
from mpiparallel.controller.state import MAX_PATIENCE, Client, Errand, Peer, Send, State, World
from mpiparallel.wire.messages import (
    Answer,
    Ask,
    Balance,
    EnginesLost,
    Goodbye,
    Heartbeat,
    Hello,
    HelloWorld,
    Message,
    Refused,
    Returned,
    Stop,
    Submit,
    Where,
)
from mpiparallel.wire.waits import Place

PAUSE = 20.0  # seconds that worlds have to be back before balanced tasks are placed without them

_NOBODY: frozenset[Role] = frozenset()  # what only the controller may say


class Hub:
    """The state of one controller.

    Parameters
    ----------
    cluster_id : str
    about : dict
        What clients who ask for the status learn of the controller itself: ``host``, ``pid``, ``started``.
    heartbeat : float
        Seconds of silence after which a peer is asked to say something.
    lost_after : float
        Seconds of silence after which a peer is lost, unless the server watches its process (`watch`).
    records : int
        How many finished tasks are remembered.
    scheme, hwm
        How engines are chosen for balanced tasks, and how many of these one may have; see `Balancing`.
    """

    def __init__(
        self,
        cluster_id: str = "",
        about: dict[str, Any] | None = None,
        heartbeat: float = 5.0,
        lost_after: float = 120.0,
        records: int = 10_000,
        scheme: str = "leastload",
        hwm: int | None = None,
    ) -> None:
        self.state = State(cluster_id, about or {}, heartbeat, records, scheme, hwm)
        self.lost_after = lost_after
        self.state.patience = min(MAX_PATIENCE, lost_after)
        self.stopping = ""  # the reason, once the controller is to end

    # ------------------------------------------------------------ what the server calls

    def receive(self, sender: Peer, message: Message, now: float, role: Role | None = None) -> list[Send]:
        """Take a message; return what is to be sent.

        `role` is what the sender's key allows; None (a peer on the private socket) allows both, and the first
        message decides.
        """
        self.state.now = now
        header = message.header
        kind = type(header)
        known = self.state.peers.get(sender)
        if known is not None:
            known.heard = now
            role = "client" if type(known) is Client else "engine"
        permitted = PERMITTED.get(kind, _NOBODY)
        if not permitted or (role is not None and role not in permitted):
            self._refuse(sender, message, f"{_who(role)} may not send {kind.__name__}", "forbidden messages")
        elif kind is Hello:
            self._hello(sender, header, now)  # type: ignore[arg-type]
        elif kind is HelloWorld:
            self._hello_world(sender, header, now)  # type: ignore[arg-type]
        elif known is None:
            reason = f"{kind.__name__} from a peer that has not said Hello"
            self._refuse(sender, message, reason, "messages before Hello")
        elif type(known) is Client:
            self._from_client(known, message, now)
        else:
            self._from_world(known, message, now)  # type: ignore[arg-type]
        return self._take()

    def lost(self, peer: Peer, reason: str, now: float) -> list[Send]:
        """Forget a peer that is gone; its open tasks fail for `reason`. A world that survives is adrift."""
        self.state.now = now
        self._lost(peer, reason, now)
        return self._take()

    def cut(self, peer: Peer, reason: str, now: float) -> list[Send]:
        """Note that the connection of a peer is lost, which may live on and connect again."""
        self.state.now = now
        self._cut(peer, reason, now)
        return self._take()

    def client_died(self, name: str) -> list[Send]:
        """Forget a client whose process has ended, connected or away."""
        client = self.state.client(name)
        if client is not None:
            clients.forget(self.state, client)
        return self._take()

    def restore(
        self,
        found: Iterable[tuple[World, list[int]]],
        next_engine: int,
        now: float,
        waiting: Iterable[Message] = (),
        ended: Mapping[str, tuple[bool, tuple[int, ...]]] | None = None,
    ) -> None:
        """Begin with what an earlier run of the controller has left.

        Its worlds, with their engines that were stopped; from the store the tasks of clients that were gone
        (`waiting`), and how those have `ended` that these come after.
        """
        self.state.now = now
        for world, stopped in found:
            worlds.restore(self.state, world, stopped, now)
        self.state.next_engine = max(self.state.next_engine, next_engine)
        self.state.paused, self.state.paused_until = bool(self.state.adrift), now + PAUSE
        self.state.settled_at = now + claims.CLIENTS_BACK
        departed.restore(self.state, waiting, ended or {}, now)
        balance.run(self.state)

    def stored(self, tasks: Iterable[str], now: float) -> list[Send]:
        """Note that the store has the results of these tasks."""
        if self.state.kept:
            for task in tasks:
                delivery.stored(self.state, task)
        return self._take()

    def engines_lost(self, name: str, engines: list[int], reason: str, now: float) -> list[Send]:
        """Forget engines of world `name` whose processes have died, the bridge perhaps among them.

        When the world does not survive that, all of it is lost.
        """
        self.state.now = now
        world = self.state.worlds.get(name)
        if world is None:
            return []
        if not world.hello.survives:
            worlds.forget(self.state, world, reason, WorldEvent.LOST)
        else:
            bridge = world.bridge
            if world.peer is not None and bridge not in engines:
                # MPI's runtime may not know: it hears of processes that were killed, and not of all others.
                self.state.send(world.peer, EnginesLost(engines, reason))
            worlds.engines_lost(self.state, world, engines, reason)
            if bridge in engines and world.peer is not None:
                self._lost(world.peer, reason, now, bridge)
        return self._take()

    def job_ended(self, name: str, reason: str, now: float, returns: bool = False) -> list[Send]:
        """Let go of a world of which the batch system says that its job has ended, or waits once more."""
        self.state.now = now
        world = self.state.worlds.get(name)
        if world is not None:
            worlds.job_ended(self.state, world, reason, returns)
        return self._take()

    def silent(self, now: float) -> list[World]:
        """Return worlds that owe an answer to Where; the server may look at their bridges, and say `saw`."""
        return questions.silent(self.state, now)

    def saw(self, world: World, place: Place) -> None:
        """Note what the server saw of an engine of a silent world."""
        questions.saw(self.state, world, place)

    def due(self, now: float) -> float:
        """Return when `silent` or `tick` have something to say at the latest: a time, or infinity."""
        if self.state.unsaved:
            return now
        return min(questions.due(self.state, now), worlds.due(self.state), balance.due(self.state))

    def tick(self, now: float) -> list[Send]:
        """Ask silent peers for a sign of life; take those that were silent for too long for cut off."""
        state = self.state
        state.now = now
        for peer, known in list(state.peers.items()):
            silence = now - known.heard
            if silence > self.lost_after and not known.watched:
                self._cut(peer, f"nothing was heard of it for {silence:.0f} s", now)
            elif self.stopping or min(silence, now - known.asked) >= state.heartbeat:
                # While the controller stops, asking finds out whose connection has gone.
                known.asked = now
                state.send(peer, Heartbeat(echo=True))
        clients.tick(state, now)
        worlds.tick(state, now)
        questions.tick(state, now)
        balance.tick(state, now)
        claims.resume(state)
        nobody.tick(state, now)
        if not self.stopping and (reason := idling.over(state, now)):
            self._shut_down(reason)
        return self._take()

    def shut_down(self, reason: str, now: float) -> list[Send]:
        """Stop all worlds and take no more; the server waits until `state.worlds` is empty."""
        self.state.now = now
        self._shut_down(reason)
        return self._take()

    def farewell(self) -> list[Send]:
        """Say goodbye to all clients and forget them."""
        departed.abandon(self.state, self.stopping)
        self.state.tell_clients(Goodbye(self.stopping))
        for client in [*self.state.clients.values(), *self.state.away.values()]:
            clients.forget(self.state, client)
        self.state.unsaved.clear()
        return self._take()

    def watch(self, peer: Peer) -> None:
        """Note that the server watches the process of this peer, so that its silence means nothing."""
        self.state.peers[peer].watched = True

    def take_records(self) -> list[Entry]:
        """Return what the store is to know of tasks that have ended since the last call."""
        state = self.state
        if state.unsaved:
            departed.write(state)
        journal, state.journal, state.looked = state.journal, [], 0
        for entry in journal:
            if type(entry) is Record:
                if entry.status is not None:
                    state.printed.pop(entry.task, None)
                engine = state.engines.get(entry.engines[0]) if entry.engines else None
                if engine is not None:
                    entry.uuid = engine.info.uuid
        return journal

    def take_errands(self) -> list[Errand]:
        """Return what is to be read in the store, after what `take_records` returned has been put there."""
        errands, self.state.errands = self.state.errands, []
        return errands

    def found(self, errand: Errand, value: Any, error: Exception | None, now: float) -> list[Send]:
        """Take what the store has answered."""
        back = claims.found(self.state, errand, value, error)
        if back is not None:
            for message in back[1]:
                self._from_client(back[0], message, now)
        return self._take()

    def _take(self) -> list[Send]:
        balance.run(self.state)
        if self.state.followers:
            claims.follow_up(self.state)
        if self.state.settled:
            delivery.flush(self.state)
        out, self.state.out = self.state.out, []
        return out

    def _refuse(self, sender: Peer, message: Message, reason: str, counter: str) -> None:
        self.state.counters[counter] += 1
        request = message.header.request if isinstance(message.header, Submit | Balance) else ""
        self.state.send(sender, Refused(reason, request))

    # ------------------------------------------------------------ meeting

    def _hello(self, sender: Peer, hello: Hello, now: float) -> None:
        state = self.state
        present = state.peers.get(sender)
        if self.stopping or (isinstance(present, Client) and present.name != hello.name):
            reason = self._closed() or f"this connection is client {present.name!r} already"  # type: ignore[union-attr]
            self._refuse(sender, Message(hello), reason, "refused hellos")
            return
        clients.hello(state, sender, hello, now)

    def _hello_world(self, sender: Peer, hello: HelloWorld, now: float) -> None:
        worlds.requeued(self.state, hello)
        problem = self._closed() or worlds.problem(self.state, sender, hello)
        if problem:
            self._refuse(sender, Message(hello), problem, "refused hellos")
            world = self.state.adrift.get(hello.name)
            if world is not None and self.stopping:
                worlds.forget(self.state, world, problem, WorldEvent.LOST)
            return
        worlds.hello(self.state, sender, hello, now)

    def _closed(self) -> str:
        return f"the controller is shutting down: {self.stopping}" if self.stopping else ""

    # ------------------------------------------------------------ from those who are known

    def _from_client(self, client: Client, message: Message, now: float) -> None:
        kind = type(message.header)
        handle = CLIENT_WORK.get(kind)
        if handle is not None:
            handle(self.state, client, message)
        elif type(message.header) is Balance:
            balance.submit(self.state, client, message, now)
        elif isinstance(message.header, Ask) and self.state.storing and message.header.what in claims.ANSWERS:
            claims.ANSWERS[message.header.what](self.state, client, message.header)
        elif isinstance(message.header, Ask):
            self.state.send(client.peer, answers.answer(self.state, message.header))
        elif isinstance(message.header, Where):
            questions.where(self.state, client, message.header, now)
        elif isinstance(message.header, Stop):
            self._stop(client, message.header)
        else:
            self._common(client, message)

    def _from_world(self, world: World, message: Message, now: float) -> None:
        handle = WORLD_WORK.get(type(message.header))
        if handle is not None:
            handle(self.state, world, message)
        elif type(message.header) is Returned:
            balance.returned(self.state, world, message, now)
        else:
            self._common(world, message)

    def _common(self, known: Client | World, message: Message) -> None:
        header = message.header
        if isinstance(header, Heartbeat):
            if header.echo:
                self.state.send(known.peer, Heartbeat())
        elif isinstance(header, Goodbye):
            self._goodbye(known, header.reason or "it said goodbye")

    # ------------------------------------------------------------ parting

    def _goodbye(self, known: Client | World, reason: str) -> None:
        if isinstance(known, Client):
            clients.forget(self.state, known)
        else:
            worlds.forget(self.state, known, reason, WorldEvent.LEFT)

    def _stop(self, client: Client, stop: Stop) -> None:
        if stop.controller:
            self._shut_down(stop.reason or f"client {client.name} on {client.host} asked for it")
        else:
            worlds.stop_engines(self.state, stop.engines, stop.reason or "a client stopped it")
        self.state.send(client.peer, Answer(stop.query))

    def _shut_down(self, reason: str) -> None:
        if not self.stopping:
            self.stopping = reason or "no reason was given"
            reason = f"the controller is shutting down: {self.stopping}"
            worlds.stop_engines(self.state, list(self.state.engines), reason)

    def _lost(self, peer: Peer, reason: str, now: float, bridge: int = -1) -> None:
        known = self.state.peers.get(peer)
        if isinstance(known, Client):
            clients.forget(self.state, known)
        elif isinstance(known, World):
            if known.hello.survives and known.state is WorldState.UP and not self.stopping:
                worlds.go_adrift(self.state, known, reason, now, bridge)
            else:
                worlds.forget(self.state, known, reason, WorldEvent.LOST)

    def _cut(self, peer: Peer, reason: str, now: float) -> None:
        known = self.state.peers.get(peer)
        if isinstance(known, Client) and not self.stopping:
            clients.send_away(self.state, known, now)
        elif isinstance(known, World) and known.state is WorldState.UP and not self.stopping:
            worlds.go_adrift(self.state, known, reason, now, cut=True)
        else:
            self._lost(peer, reason, now)


def _who(role: Role | None) -> str:
    return {"client": "a client", "engine": "an engine", None: "a peer"}[role]
