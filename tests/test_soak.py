"""Two minutes of the soak: mixed traffic of three clients on two worlds, after which all is accounted for.

``MPIPARALLEL_TEST_SOAK`` sets another length, in minutes. ``python -m benchmarks soak`` is the long form,
with a stricter look at memory.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import processes_of, wait_until

from benchmarks.soak import MB, Sizes, Soak
from benchmarks.soak_client import Account, Sender

MINUTES = float(os.environ.get("MPIPARALLEL_TEST_SOAK", "2"))
GROWTH, SHARE = (
    40.0,
    0.25,
)  # in the second half: two minutes are too short for more than a leak in every request
CLIENTS = {"first", "second", "third"}


class FakeProcess:
    """A process whose size is known."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = iter(sizes)

    def memory_info(self) -> FakeProcess:
        self.rss = next(self.sizes)
        return self


@pytest.mark.parametrize(
    ("sizes", "growth"),
    [
        ([100 * MB] * 100, 0),
        ([i * MB for i in range(50)] + [50 * MB] * 50, 0),  # only at first
        ([50 * MB] * 75 + [90 * MB] + [50 * MB] * 24, 0),  # a peak
        ([i * MB for i in range(100)], 49 * MB),
    ],
)
def test_growth_is_that_of_the_second_half(sizes: list[int], growth: int) -> None:
    found = Sizes(FakeProcess(sizes))  # type: ignore[arg-type]
    for second in range(len(sizes)):
        found.sample(second)
    assert found.growth() == pytest.approx(growth)


SENT = "sending\t7\tsingle\t100.0\nsent\t7\tid-0\n"


@pytest.mark.parametrize(
    ("ledger", "wrong"),
    [
        (SENT + "ended\t7\tok\n", ""),
        (SENT, "job 7, single, is open"),
        (SENT + "ended\t7\tok\nended\t7\tok\n", "job 7 ended twice"),
        (SENT + "ended\t7\tok\tok\n", "2 of 1 requests"),
        (SENT + "ended\t7\tLOST\n", "1 of single sent"),
        (SENT + "wrong\t7\tsaid 8\nended\t7\tok\n", "said 8"),
        ("sending\t7\tsingle\t100.0\nended\t7\tcut off\n", "1 cut off in 1 lives"),
        (SENT + "ended\t7\tok\nsending\t8\tsing", ""),  # cut by a kill
    ],
)
def test_what_is_not_accounted_for_is_found(ledger: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text("start\t99.0\n" + ledger)
    run = Soak(tmp_path)
    run.accounts["first"] = Account.read(path)
    assert wrong in "\n".join(run.lost()) if wrong else not run.lost()


class Knows:
    """A client that knows some tasks of others."""

    def __init__(self, *known: str) -> None:
        self.known = known

    def get_result(self, msg_id: str, block: bool) -> str:
        if msg_id not in self.known:
            raise KeyError(msg_id)
        return msg_id


@pytest.mark.parametrize(
    ("known", "age", "wrong"),
    [
        (("a", "b"), 0.1, []),
        (("a",), 0.1, []),  # the last one was still on its way when its client was killed
        (("b",), 0.1, ["job 1: single"]),
        ((), 0.1, []),
        (("a",), 9.0, ["job 2: single"]),  # too long on its way
    ],
)
def test_a_successor_finds_what_is_not_there(
    known: tuple[str, ...], age: float, wrong: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    lines = [f"sending\t{n}\tsingle\t100.0\nsent\t{n}\t{id}\n" for n, id in ((1, "a"), (2, "b"))]
    path.write_text(f"start\t99.0\n{''.join(lines)}start\t{100 + age}\n")
    sender = Sender(Knows(*known), "third", path)  # type: ignore[arg-type]
    sender.ledger.close()
    account = Account.read(path)
    assert [text.split(",")[0] for text in account.wrong] == wrong
    assert len(sender.jobs) == account.claimed == len(known)


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(600 + 120 * MINUTES)
def test_nothing_is_lost_and_nothing_grows(tmp_path: Path) -> None:
    run = Soak(tmp_path)
    run.last(60 * MINUTES)
    report = run.report(GROWTH, SHARE)
    print(report)
    assert not run.problems(GROWTH, SHARE), report
    assert set(run.accounts) == CLIENTS
    assert all(account.sent.total() > 100 for account in run.accounts.values()), report
    assert run.left and run.accounts["third"].claimed, "no client has left with something under way"
    assert wait_until(lambda: not processes_of(tmp_path)), processes_of(tmp_path)
