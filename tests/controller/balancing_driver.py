"""Drive balanced tasks through a hub without a server."""

from __future__ import annotations

from typing import Any

from mpiparallel.controller.records import Record
from mpiparallel.wire.messages import NOBODY, Balance, EnginesLost, Failure, Recall, Result, Submit
from tests.controller.driver import Driver


class Balancer(Driver):
    """A driver that knows what runs where."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made = 0
        self.records: list[Record] = []

    def balance(self, client: str, count: int = 1, request: str = "", **fields: Any) -> list[str]:
        """Submit a request of `count` tasks; return their ids."""
        if not request:
            self.made += 1
            request = f"{client}-{self.made}"
        parts = [b"part%d" % number for number in range(count)]
        fields.setdefault("function", b"f")
        function = [b"code"] if fields["function"] and fields.pop("send", True) else []
        fields.pop("send", None)
        first = fields.get("first", 0)
        message = Balance(
            request, client, "apply", [1] * count, common=len(function) + 1,
            function_frames=len(function), **fields,
        )  # fmt: skip
        self.say(client, message, *function, b"common", *parts)
        return [f"{request}_{first + number}" for number in range(count)]

    def sent(self, peer: Any = "w") -> list[tuple[str, list[int]]]:
        """Return the tasks sent to a world since the last look, and the engines of each."""
        return [(one.request, one.engines) for one in self.heard(peer) if isinstance(one, Submit)]

    def recalls(self, peer: Any = "w") -> list[Recall]:
        return [one for one in self.heard(peer) if isinstance(one, Recall)]

    def finish(self, task: str, engine: int, took: float = 0.001, peer: Any = "w", **fields: Any) -> None:
        fields.setdefault("status", "ok")
        self.say(peer, Result(task, engine, started=self.now - took, completed=self.now, **fields), b"value")

    def fail(self, task: str, engine: int, ename: str = "ValueError", peer: Any = "w") -> None:
        self.finish(task, engine, peer=peer, status="error", failure=Failure(ename, "no"))

    def results(self, client: str) -> list[tuple[str, int, str]]:
        """Return task, engine and outcome of what a client has got since the last look."""
        return [
            (one.request, one.engine, one.failure.ename if one.failure else one.status)
            for one in self.heard(client)
            if isinstance(one, Result)
        ]

    def reason(self, client: str) -> str:
        """Return the text of the one result that a client has got: an error of the hub's."""
        (one,) = [one for one in self.heard(client) if isinstance(one, Result)]
        assert one.failure is not None and one.engine == NOBODY
        return one.failure.evalue

    def kill(self, engine: int, peer: Any = "w") -> None:
        """Let an engine of a world that survives die."""
        self.say(peer, EnginesLost([engine], "killed"))

    def assert_no_work_left(self) -> None:
        state = self.hub.state
        table = state.balancing
        for kept in (
            state.balanced, state.requests, table.pools, table.naming, table.hungry, table.watches,
            table.headless, table.gangs, table.functions.missing, table.news, table.pools_to_serve,
            table.seats_to_fill, table.crews_to_fill, table.everywhere.picky, table.everywhere.behind,
        ):  # fmt: skip
            assert not kept, kept
        assert len(table.turns) == 0
        assert table.everywhere.queue.size == 0
        assert table.everywhere.idle == sum(seat.level == 0 for seat in table.seats.values())
        assert all(function.uses == 0 for function in table.functions.known.values())
        for seat in table.seats.values():
            assert not seat.open and seat.behind is None and list(seat.pools) == [table.everywhere]
            assert seat.expected == 0.0 and seat.direct == 0
