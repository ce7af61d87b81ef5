"""Where engines are: who waits for whom, and the picture of it."""

from __future__ import annotations

import json
import threading
import time

import pytest
from helpers import wait_until

from mpiparallel.client.where import EnginePlace, Whereabouts, locate
from mpiparallel.ranges import ranges
from mpiparallel.wire.messages import EngineInfo, Where
from mpiparallel.wire.waits import Frame, Part, Place, Wait


def known(n: int, first: int = 0, world: str = "w") -> dict[int, EngineInfo]:
    return {
        first + rank: EngineInfo(first + rank, world, rank, n, f"node{rank // 4}", 100 + rank)
        for rank in range(n)
    }


def cell(line: int, text: str) -> Frame:
    return Frame("cell", line, "<module>", text)


def solver(line: int, function: str = "iterate", text: str = "r = a @ x") -> Frame:
    return Frame("/home/me/solver.py", line, function, text)


def collective(n: int, seconds: float = 2.0, call: str = "Allreduce", index: int = 4, root: str = "") -> Wait:
    part = Part("collective", "world", call + root, index)
    return Wait(9, call, seconds, [part], False, {"world": list(range(n))}, {"world": "COMM_WORLD"})


def receive(peer: int, tag: int = -1) -> Wait:
    part = Part("receive", "world", peer=peer, tag=tag)
    return Wait(9, "recv", 2.0, [part], names={"world": "COMM_WORLD"})


def running(engine: int, *stack: Frame, seconds: float = 12.4) -> Place:
    return Place(engine, "running", "r-1", "c", seconds, 0, list(stack))


def blocked(engine: int, wait: Wait, *stack: Frame) -> Place:
    return Place(engine, "blocked", "r-1", "c", 12.4, 0, list(stack), wait)


def whereabouts(places: list[Place], infos: dict[int, EngineInfo]) -> Whereabouts:
    return Whereabouts(list(locate({place.engine: place for place in places}, infos).values()))


def test_64_engines_in_five_lines():
    at = cell(5, "total = comm.allreduce(x)")
    places = [blocked(i, collective(64, 12.0 + i / 1000), at) for i in range(64) if i not in (3, 7, 8, 9)]
    places += [running(3, cell(3, "work(x)"), solver(88)), Place(8, "idle"), Place(9, "idle")]
    stuck = Place(
        7, "stuck", seconds=20.0, stack=[cell(7, "f()")], native=["main", "dgemm_"], detail="holds the GIL"
    )
    places.append(stuck)
    where = whereabouts(places, known(64))
    lines = str(where).splitlines()
    assert [[word.strip() for word in line.split("  ") if word] for line in lines] == [
        [
            "engines 0-2, 4-6, 10-63",
            "blocked 12.1 s in Allreduce (COMM_WORLD, with engines 3, 7-9)",
            "cell line 5: total = comm.allreduce(x)",
        ],
        ["engine 3", "running 12.4 s", "cell line 3: work(x) > solver.py:88 in iterate: r = a @ x"],
        ["engine 7", "stuck 20.0 s: holds the GIL; native: main > dgemm_", "cell line 7: f()"],
        ["engines 8-9", "idle"],
    ]
    assert len({line.index("cell line") for line in lines[:3]}) == 1
    assert where[0].waits_for == [3, 7, 8, 9]
    assert (where[63].rank, where[63].host, where[3].waits_for) == (63, "node15", [])


def test_a_tree_of_stacks():
    outer = cell(3, "run(u)")
    places = [running(i, outer, solver(88)) for i in range(3)]
    places += [running(3, outer, solver(91, "halo", "swap(u)"), solver(12, "swap", "u.copy()"))]
    places += [blocked(i, collective(8), outer, solver(91, "halo", "swap(u)")) for i in (4, 5)]
    places += [running(6, outer)]
    lines = str(whereabouts(places, known(8))).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "engines 0-6 cell line 3: run(u)",
        "engines 0-2 running 12.4 s solver.py:88 in iterate: r = a @ x",
        "engines 3-5 solver.py:91 in halo: swap(u)",
        "engine 3 running 12.4 s solver.py:12 in swap: u.copy()",
        "engines 4-5 blocked 2.0 s in Allreduce (COMM_WORLD, with engines 0-3, 6-7)",
        "engine 6 running 12.4 s",
    ]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 2, 4, 4, 2]


def test_long_chains_and_many_branches():
    deep = [cell(1, "go()")] + [solver(line, "recurse") for line in range(9)]
    [line] = str(whereabouts([running(0, *deep)], known(1))).splitlines()
    assert line.count(" > ") == 3 and "cell line 1: go() > ... > solver.py:7" in line
    places = [running(i, cell(1, "go()"), solver(max(i, 80))) for i in range(100)]
    places.append(Place(100, "stuck", "r-1", "c", 9.0, 0, [cell(1, "go()")], detail="holds the GIL"))
    text = str(whereabouts(places, known(101)))
    assert len(text.splitlines()) == 9
    assert "holds the GIL" in text  # however few they are
    assert "engines 86-99" in text and "at 14 other places" in text


def test_an_engine_that_another_process_looked_at():
    """It has all frames, and joins those that are at the same place in user code."""
    files = ["<frozen runpy>", "/lib/mpiparallel/engine/executor.py", "/lib/IPython/core/interactiveshell.py"]
    shell = [Frame(file, 88, "run") for file in files]
    raw = Frame("<ipython-input-1-b1efa5f13fb3>", 3, "<module>", "work(x)")
    stuck = Place(1, "stuck", seconds=9.0, stack=[*shell, raw, solver(88)], detail="holds the GIL")
    lines = str(whereabouts([running(0, cell(3, "work(x)"), solver(88)), stuck], known(2))).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "engines 0-1 cell line 3: work(x) > solver.py:88 in iterate: r = a @ x",
        "engine 0 running 12.4 s",
        "engine 1 stuck 9.0 s: holds the GIL",
    ]


def test_durations():
    near = [running(0, seconds=10.0), running(1, seconds=10.6)]
    assert str(whereabouts(near, known(2))).endswith("running 10.6 s")
    far = [running(0, seconds=1.0), running(1, seconds=10.6)]
    assert str(whereabouts(far, known(2))).endswith("running 1.0-10.6 s")


def test_messages():
    places = [blocked(10, receive(1, 7)), blocked(11, receive(2, 8)), Place(12, "idle")]
    where = whereabouts(places, known(3, first=10))
    assert [place.waits_for for place in where] == [[11], [12], []]
    assert "engines 10-11  blocked 2.0 s in recv (COMM_WORLD, from engines 11-12, tags 7-8)" in str(where)
    anybody = whereabouts([blocked(0, receive(-1))], known(1))
    assert "recv (COMM_WORLD, from any engine)" in str(anybody)
    sends = Wait(1, "Waitall", 1.0, [Part("send", "world", peer=1), Part("receive", "world", peer=0, tag=2)])
    assert "Waitall (with engines 0-1, tag 2)" in str(whereabouts([blocked(0, sends)], known(2)))
    nothing = Wait(1, "Win.Fence", 1.0)
    assert str(whereabouts([blocked(0, nothing)], known(1))).endswith("blocked 1.0 s in Win.Fence")


def test_only_those_in_the_same_call_have_arrived():
    places = [
        blocked(0, collective(4)), blocked(1, collective(4)),
        blocked(2, collective(4, index=3)), blocked(3, collective(4, root="(root=1)")),
    ]  # fmt: skip
    waits_for = [place.waits_for for place in whereabouts(places, known(4))]
    assert waits_for == [[2, 3], [2, 3], [0, 1, 3], [0, 1, 2]]
    both = {**known(2), **known(2, first=2, world="other")}
    worlds = [blocked(0, collective(2)), blocked(1, collective(2)), blocked(2, collective(2)), running(3)]
    assert [place.waits_for for place in whereabouts(worlds, both)] == [[], [], [3], []]


def test_an_engine_that_is_not_known_any_more():
    [place] = whereabouts([Place(5, "gone", detail="it was killed")], known(2))
    assert (place.rank, place.host) == (-1, "")
    assert str(whereabouts([place], {})) == "engine 5  gone: it was killed"


def test_a_sequence_by_engine():
    where = whereabouts([running(8, cell(1, "f()")), Place(9, "idle")], known(2, first=8))
    assert len(where) == 2 and where.engines == [8, 9] and [place.engine for place in where] == [8, 9]
    assert where[9].state == "idle" and isinstance(where[9], EnginePlace)
    assert where[:1].engines == [8]
    with pytest.raises(IndexError, match="engine 0 is not among these"):
        where[0]
    assert str(Whereabouts([])) == "no engines"
    assert repr(where) == str(where)
    assert json.loads(json.dumps(where.to_builtins()))[0]["stack"][0]["text"] == "f()"


def test_html():
    html = whereabouts([running(0, cell(1, "a < b"))], known(1))._repr_html_()
    assert html.startswith("<pre ") and "a &lt; b" in html


def test_many_engines_fast():
    n = 1000
    stack = [cell(3, "run(u)"), *[solver(line, "recurse") for line in range(10)]]
    places = [blocked(i, collective(n), *stack) if i % 2 else running(i, *stack, solver(i)) for i in range(n)]
    infos = known(n)
    began = time.process_time()
    text = str(whereabouts(places, infos))
    assert time.process_time() - began < 0.5  # 30 ms where nobody else computes
    assert len(text.splitlines()) < 12


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([0], "0"), ([0, 1, 2, 4], "0-2, 4"), (range(0, 40, 2), "0, 2, 4, 6, 8, 10, 12, ... (20 in all)")],
)
def test_fold(numbers, text):
    assert ranges(numbers) == text


# ---------------------------------------------------------------- by a client


def test_asked_by_clients_and_views(client, fake):
    fake.places = {1: blocked(1, collective(4), cell(2, "comm.barrier()"))}
    assert [place.state for place in client.where()] == ["idle", "blocked", "idle", "idle"]
    assert client[1].where()[1].waits_for == [0, 2, 3]  # those who are not asked about count, too
    assert client[1].where().engines == [1]
    assert client[:].where([0, 2]).engines == [0, 2]
    assert client.broadcast_view().where().engines == [0, 1, 2, 3]


def test_while_requests_run_and_from_another_thread(client, fake):
    fake.holding = {0, 1}
    result = client[:2].apply_async(int)
    found = []
    while not found or found[-1][1].state != "running":
        thread = threading.Thread(target=lambda: found.append(client.where()))
        thread.start()
        thread.join(10)
    assert [place.request for place in found[-1]] == [result.msg_ids[0][:-2]] * 2 + ["", ""]
    client.interrupt()
    result.wait(10)


def test_without_engines_and_without_an_answer(client, fake):
    fake.mute = True
    with pytest.raises(TimeoutError, match=r"did not say within 0\.1 s"):
        client.where(timeout=0.1)
    for number in range(4):
        fake.call(fake.remove_engine, number)
    assert wait_until(lambda: not client.ids)
    assert len(client.where()) == 0


def test_an_engine_that_has_left(client, fake):
    real = fake._place
    fake._place = lambda number: real(number) if number != 2 else Place(3, "idle")
    where = client.where()
    assert where[2].state == "gone" and where[2].detail == "it left while it was asked"
    assert len(fake.headers(Where)) == 1
