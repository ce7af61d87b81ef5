"""The hub: who is there, which engine is where, which task is open. A function of its inputs.

The server gives it messages and losses together with the time and sends what comes back. There is no clock,
socket, thread or file in here::

    hub.receive(sender, message, now)  ->  [Send(peer, message), ...]
    hub.lost(peer, reason, now)        ->  ...
    hub.tick(now)                      ->  ...

Everything is forgotten when its owner goes, except the bounded record of finished tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpiparallel import __version__
from mpiparallel.connection_file import Role
from mpiparallel.controller import answers, work
from mpiparallel.controller.lives import EngineEvent, WorldEvent, WorldState
from mpiparallel.controller.state import Client, Engine, Peer, Send, State, World
from mpiparallel.wire.messages import (
    Abort,
    Answer,
    Ask,
    Consumed,
    EngineInfo,
    EnginesChanged,
    EnginesLost,
    Goodbye,
    Heartbeat,
    Hello,
    HelloWorld,
    Lacks,
    Message,
    Notice,
    Output,
    Refused,
    Result,
    Signal,
    Stop,
    Submit,
    Supply,
    Welcome,
    WelcomeWorld,
    Where,
    Whereabouts,
)

MAX_ENGINES = 1 << 31

PERMITTED: dict[type, frozenset[Role]] = {
    Hello: frozenset({"client"}),
    HelloWorld: frozenset({"engine"}),
    Submit: frozenset({"client"}),
    Abort: frozenset({"client"}),
    Signal: frozenset({"client"}),
    Stop: frozenset({"client"}),
    Ask: frozenset({"client"}),
    Where: frozenset({"client"}),
    Supply: frozenset({"client"}),
    Consumed: frozenset({"client"}),
    Result: frozenset({"engine"}),
    Output: frozenset({"engine"}),
    Lacks: frozenset({"engine"}),
    Whereabouts: frozenset({"engine"}),
    Notice: frozenset({"engine"}),
    EnginesLost: frozenset({"engine"}),
    Heartbeat: frozenset({"client", "engine"}),
    Goodbye: frozenset({"client", "engine"}),
}
_NOBODY: frozenset[Role] = frozenset()  # what only the controller may say

_CLIENT_WORK: dict[type, Callable[[State, Client, Message], None]] = {
    Submit: work.submit,
    Abort: work.abort,
    Signal: work.signal,
    Consumed: work.consumed,
    Supply: work.supply,
}
_WORLD_WORK: dict[type, Callable[[State, World, Message], None]] = {
    Result: work.result,
    Output: work.output,
    Lacks: work.lacks,
}


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
    """

    def __init__(
        self,
        cluster_id: str = "",
        about: dict[str, Any] | None = None,
        heartbeat: float = 5.0,
        lost_after: float = 120.0,
        records: int = 10_000,
    ) -> None:
        self.state = State(cluster_id, about or {}, heartbeat, records)
        self.lost_after = lost_after
        self.stopping = ""  # the reason, once the controller is to end

    # ------------------------------------------------------------ what the server calls

    def receive(self, sender: Peer, message: Message, now: float, role: Role | None = None) -> list[Send]:
        """Take a message; return what is to be sent.

        `role` is what the sender's key allows; None (a peer on the private socket) allows both, and the first
        message decides.
        """
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
        """Forget a peer that is gone; its open tasks fail for `reason`."""
        self._lost(peer, reason, WorldEvent.LOST)
        return self._take()

    def tick(self, now: float) -> list[Send]:
        """Ask silent peers for a sign of life; give up those that have been silent for too long."""
        state = self.state
        for peer, known in list(state.peers.items()):
            silence = now - known.heard
            if silence > self.lost_after and not known.watched:
                self._lost(peer, f"nothing was heard of it for {silence:.0f} s", WorldEvent.LOST)
            elif self.stopping or min(silence, now - known.asked) >= state.heartbeat:
                # While the controller stops, asking finds out whose connection has gone.
                known.asked = now
                state.send(peer, Heartbeat(echo=True))
        return self._take()

    def shut_down(self, reason: str, now: float) -> list[Send]:
        """Stop all worlds and take no more; the server waits until `state.worlds` is empty."""
        self._shut_down(reason)
        return self._take()

    def farewell(self) -> list[Send]:
        """Say goodbye to all clients and forget them."""
        self.state.tell_clients(Goodbye(self.stopping))
        for client in list(self.state.clients.values()):
            self._forget_client(client)
        return self._take()

    def watch(self, peer: Peer) -> None:
        """Note that the server watches the process of this peer, so that its silence means nothing."""
        self.state.peers[peer].watched = True

    def _take(self) -> list[Send]:
        out, self.state.out = self.state.out, []
        return out

    def _refuse(self, sender: Peer, message: Message, reason: str, counter: str) -> None:
        self.state.counters[counter] += 1
        request = message.header.request if type(message.header) is Submit else ""
        self.state.send(sender, Refused(reason, request))

    # ------------------------------------------------------------ meeting

    def _hello(self, sender: Peer, hello: Hello, now: float) -> None:
        state = self.state
        present = state.peers.get(sender)
        if self.stopping or (isinstance(present, Client) and present.name != hello.name):
            reason = self._closed() or f"this connection is client {present.name!r} already"  # type: ignore[union-attr]
            self._refuse(sender, Message(hello), reason, "refused hellos")
            return
        client = state.clients.get(hello.name)
        if client is None:
            client = state.clients[hello.name] = Client(hello.name, sender, hello.host, hello.pid, now)
        replaced = client.peer != sender
        if replaced:
            self._replace(client, sender)
            client.host, client.pid = hello.host, hello.pid
        client.heard = now
        state.peers[sender] = client
        engines = [engine.info for engine in state.engines.values()]
        state.send(sender, Welcome(__version__, state.cluster_id, engines, state.heartbeat))
        if replaced:
            # What was on its way to the old connection is lost: output, and questions for functions.
            work.release(state, client, keep_lacks=True)

    def _hello_world(self, sender: Peer, hello: HelloWorld, now: float) -> None:
        state = self.state
        world = state.worlds.get(hello.name)
        problem = self._closed() or self._problem(sender, hello, world)
        if problem:
            self._refuse(sender, Message(hello), problem, "refused hellos")
            return
        if world is None:
            world = self._register(sender, hello, now)
            added = [engine.info for engine in world.engines.values()]
        else:
            self._reconnect(world, sender)
            added = []
        world.heard = now
        numbers = list(range(world.first, world.first + len(hello.hosts)))
        state.send(sender, WelcomeWorld(__version__, state.cluster_id, numbers, state.heartbeat))
        if added:
            state.tell_clients(EnginesChanged(added))

    def _closed(self) -> str:
        return f"the controller is shutting down: {self.stopping}" if self.stopping else ""

    def _problem(self, sender: Peer, hello: HelloWorld, world: World | None) -> str:
        present = self.state.peers.get(sender)
        if isinstance(present, World) and present.name != hello.name:
            return f"this connection is world {present.name!r} already"
        if len(hello.hosts) != len(hello.pids):
            return f"a world of {len(hello.hosts)} hosts and {len(hello.pids)} processes"
        if world is not None and (world.hello.hosts, world.hello.pids) != (hello.hosts, hello.pids):
            return f"another world is called {hello.name!r}"
        if self.state.next_engine + len(hello.hosts) > MAX_ENGINES:
            return "no engine ids are left"
        return ""

    def _register(self, sender: Peer, hello: HelloWorld, now: float) -> World:
        state = self.state
        world = World(hello.name, sender, hello, now, first=state.next_engine)
        world.advance(WorldEvent.REGISTERED)
        size = len(hello.hosts)
        for rank, (host, pid) in enumerate(zip(hello.hosts, hello.pids, strict=True)):
            number = world.first + rank
            engine = Engine(EngineInfo(number, hello.name, rank, size, host, pid, hello.mpi), world)
            engine.advance(EngineEvent.REGISTERED)
            state.engines[number] = world.engines[number] = engine
        state.next_engine += size
        state.worlds[hello.name] = state.peers[sender] = world
        return world

    def _reconnect(self, world: World, sender: Peer) -> None:
        """Let a world that is known go on over a new connection.

        Whether the old one lost a request or a result on its way cannot be told, so that what is open fails
        rather than hangs; a result that comes nevertheless is not passed on.
        """
        world.advance(WorldEvent.RECONNECTED)
        if world.peer == sender:
            return
        self._replace(world, sender)
        for engine in world.engines.values():
            engine.advance(EngineEvent.RECONNECTED)
            work.fail_all(self.state, engine, "was cut off", "its world had to connect again")
        if world.state is WorldState.STOPPING:
            numbers = list(range(world.first, world.first + len(world.hello.hosts)))
            self.state.send(sender, Stop(numbers, reason=self.stopping))

    def _replace(self, known: Client | World, sender: Peer) -> None:
        del self.state.peers[known.peer]
        self.state.send(known.peer, Refused("a newer connection has taken this one's place"))
        known.peer, known.watched = sender, False
        self.state.peers[sender] = known

    # ------------------------------------------------------------ from those who are known

    def _from_client(self, client: Client, message: Message, now: float) -> None:
        kind = type(message.header)
        handle = _CLIENT_WORK.get(kind)
        if handle is not None:
            handle(self.state, client, message)
        elif isinstance(message.header, Ask):
            self.state.send(client.peer, answers.answer(self.state, message.header))
        elif isinstance(message.header, Stop):
            self._stop(client, message.header)
        else:
            self._common(client, message)

    def _from_world(self, world: World, message: Message, now: float) -> None:
        handle = _WORLD_WORK.get(type(message.header))
        if handle is not None:
            handle(self.state, world, message)
        else:
            self._common(world, message)

    def _common(self, known: Client | World, message: Message) -> None:
        header = message.header
        if isinstance(header, Heartbeat):
            if header.echo:
                self.state.send(known.peer, Heartbeat())
        elif isinstance(header, Goodbye):
            self._lost(known.peer, header.reason or "it said goodbye", WorldEvent.LEFT)

    # ------------------------------------------------------------ parting

    def _stop(self, client: Client, stop: Stop) -> None:
        if stop.controller:
            self._shut_down(stop.reason or f"client {client.name} on {client.host} asked for it")
        else:
            self._stop_engines(stop.engines, stop.reason or "a client stopped it")
        self.state.send(client.peer, Answer(stop.query))

    def _stop_engines(self, numbers: list[int], reason: str) -> None:
        """Tell worlds to end engines, which count as gone from now on; those gone before are passed over."""
        state = self.state
        stopped = []
        for name, present in work.by_world(state, numbers)[0].items():
            world = state.worlds[name]
            state.send(world.peer, Stop(present, reason=reason))
            engines = [state.engines[number] for number in present]
            for engine in engines:
                engine.advance(EngineEvent.STOPPED)
            work.remove_engines(state, engines, "was stopped", reason)
            stopped += present
            if not world.engines:
                world.advance(WorldEvent.LAST_ENGINE_STOPPED)
        if stopped:
            state.tell_clients(EnginesChanged(removed=stopped, reason=reason))

    def _shut_down(self, reason: str) -> None:
        if not self.stopping:
            self.stopping = reason or "no reason was given"
            self._stop_engines(list(self.state.engines), f"the controller is shutting down: {self.stopping}")

    def _lost(self, peer: Peer, reason: str, event: WorldEvent) -> None:
        known = self.state.peers.get(peer)
        if isinstance(known, Client):
            self._forget_client(known)
        elif isinstance(known, World):
            self._forget_world(known, reason, event)

    def _forget_client(self, client: Client) -> None:
        """Let a client go. Its tasks run on and their results are dropped."""
        del self.state.peers[client.peer]
        del self.state.clients[client.name]
        work.release(self.state, client)

    def _forget_world(self, world: World, reason: str, event: WorldEvent) -> None:
        state = self.state
        world.advance(event)
        del state.peers[world.peer]
        del state.worlds[world.name]
        engines = list(world.engines.values())
        for engine in engines:
            engine.advance(EngineEvent.WORLD_GONE)
        what = "left" if event is WorldEvent.LEFT else "died"
        work.remove_engines(state, engines, what, reason)
        if engines:
            state.tell_clients(EnginesChanged(removed=[engine.info.id for engine in engines], reason=reason))


def _who(role: Role | None) -> str:
    return {"client": "a client", "engine": "an engine", None: "a peer"}[role]
