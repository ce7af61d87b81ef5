"""Drive a hub without a server."""

from __future__ import annotations

from typing import Any

from mpiparallel.connection_file import Role
from mpiparallel.controller.hub import Hub
from mpiparallel.controller.state import Peer, Send
from mpiparallel.wire.messages import (
    AnyHeader,
    Hello,
    HelloWorld,
    Message,
    Result,
    Submit,
    Welcome,
    WelcomeWorld,
)


class Driver:
    """A hub, a clock, and what each peer was sent."""

    def __init__(self, **options: Any) -> None:
        self.hub = Hub("cluster", {"host": "h"}, **options)
        self.now = 0.0
        self.inbox: dict[Peer, list[Message]] = {}

    def _deliver(self, sends: list[Send]) -> None:
        for peer, message in sends:
            self.inbox.setdefault(peer, []).append(message)

    def say(self, peer: Peer, header: AnyHeader, *payload: Any, role: Role | None = None) -> None:
        self._deliver(self.hub.receive(peer, Message(header, payload), self.now, role))

    def lose(self, peer: Peer, reason: str = "cable cut") -> None:
        self._deliver(self.hub.lost(peer, reason, self.now))

    def cut(self, peer: Peer, reason: str = "cable cut") -> None:
        """Let a connection be lost whose peer lives on."""
        self._deliver(self.hub.cut(peer, reason, self.now))

    def die(self, world: str, engines: list[int], reason: str = "killed") -> None:
        """Let processes of a world end, as the server sees it."""
        self._deliver(self.hub.engines_lost(world, engines, reason, self.now))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self._deliver(self.hub.tick(self.now))

    def heard(self, peer: Peer) -> list[Any]:
        """Return the headers sent to `peer` since the last call."""
        return [message.header for message in self.inbox.pop(peer, [])]

    def client(self, name: str = "a", peer: Peer = None) -> Peer:
        """Let a client join; its name is its peer unless that is given."""
        peer = peer or name
        self.say(peer, Hello("v", name, "h", 1))
        assert isinstance(self.inbox[peer][-1].header, Welcome), self.inbox[peer]
        self.inbox.pop(peer)
        return peer

    def world(self, size: int = 1, name: str = "w", peer: Peer = None, **fields: Any) -> Peer:
        peer = peer or name
        self.say(peer, HelloWorld("v", name, ["h"] * size, list(range(size)), **fields))
        assert any(isinstance(message.header, WelcomeWorld) for message in self.inbox[peer]), self.inbox[peer]
        self.inbox.clear()
        return peer

    def submit(self, client: str, number: int, engines: list[int], *payload: Any, **fields: Any) -> str:
        request = f"{client}-{number}"
        fields.setdefault("common", len(payload) - sum(fields.get("parts", [])))
        self.say(client, Submit(request, client, "execute", engines, **fields), *payload)
        return request

    def answer(self, world: Peer, request: str, engine: int, *payload: Any) -> None:
        self.say(world, Result(request, engine, "ok"), *payload)

    def assert_forgotten(self) -> None:
        """Nothing is kept once everybody is gone, except the bounded record."""
        state = self.hub.state
        for table in (
            state.peers, state.clients, state.worlds, state.adrift, state.engines, state.requests,
            state.asked, state.out, state.kept, state.missing, state.away, state.settled,
        ):  # fmt: skip
            assert not table
