"""Who waits where, as people read it."""

from __future__ import annotations

import pytest

from mpiparallel.engine.deadlock import RankState, RequestState, Situation, picture, ranks_text
from mpiparallel.wire.waits import Part

from .waiting_ranks import IDLE, RUNNING, blocked, collective, receive, send


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([3], "rank 3"), ([0, 1, 2, 5], "ranks 0-2, 5"), ([5, 4, 4], "ranks 4-5"), ([], "ranks ")],
)
def test_ranks_are_folded(ranks: list[int], text: str) -> None:
    assert ranks_text(ranks) == text


def test_many_separate_ranks_are_cut_short() -> None:
    text = ranks_text(range(0, 1000, 2))
    assert text.startswith("500 ranks (0, 2, ")
    assert len(text) < 80


def test_the_picture_shows_everybody() -> None:
    ranks = {
        0: blocked(send(1, 3), receive(2), call="Sendrecv"),
        1: blocked(receive(-1), receive(2, 4), call="Waitany", any=True),
        2: RUNNING,
        3: IDLE,
        4: IDLE,
        5: RankState("idle"),
        6: blocked(Part("other"), call="Win.Lock"),
        8: blocked(collective("Barrier", 1), receive(0), call="Waitall"),
    }
    requests = {"q": RequestState(range(5), {3: "ok", 4: "ValueError: no\nmore"})}
    assert picture(Situation(ranks, requests, {7: "killed"})).splitlines() == [
        "rank 0: Sendrecv to rank 1, tag 3 on COMM_WORLD and from rank 2 on COMM_WORLD, cell line 5",
        "rank 1: Waitany from any rank on COMM_WORLD or from rank 2, tag 4 on COMM_WORLD, cell line 5",
        "rank 2: running",
        "rank 3: finished",
        "rank 4: failed (ValueError: no)",
        "rank 5: idle",
        "rank 6: Win.Lock, cell line 5",
        "rank 7: dead (killed)",
        "rank 8: Waitall for Barrier on COMM_WORLD (its 2nd collective) and from rank 0 on COMM_WORLD, "
        "cell line 5",
    ]


def test_the_picture_of_many_ranks_is_short() -> None:
    ring = {i: blocked(receive((i - 1) % 1000), n=1000) for i in range(1000)}
    assert picture(Situation(ring)) == "ranks 0-999: receive from some rank on COMM_WORLD, cell line 5"
    for i, state in ring.items():
        state.line = f"line {i}"
    lines = picture(Situation(ring)).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "ranks 11-999: in 989 other places"
