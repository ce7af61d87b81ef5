"""A client of the soak: it sends jobs without rest and writes down what becomes of each.

``python -m benchmarks.soak_client CONNECTION-FILE NAME LEDGER 1`` is one in a process of its own. It goes on
until its standard input says ``finish`` (it waits for what is under way), says ``leave`` (it does not), or
ends. Started again with the same ledger it claims what its predecessor has not seen to the end. With 0 at the
end of the command it does not expect all output to come.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak_requests import OK, Job, judge, kind_of, send, token_of
from mpiparallel import Client
from mpiparallel.error import ConnectionFileError, NoEnginesRegistered

OPEN = 10  # jobs under way
PATIENCE = 120.0  # seconds in which what was sent ends
LOST_WITH_THE_CLIENT = 2.0  # what was sent so shortly before a client was killed may not have left it
CUT_OFF, NEVER_LEFT, LOST = "cut off", "never left", "LOST"


class Ledger:
    """What one client has sent and how it ended, in a file that outlives the client.

    Its lines are ``start time``, ``sending number kind time``, ``sent number msg_ids``, ``ended number
    outcomes`` and ``wrong number text``, with tabs between. A line is written before the thing is done or
    after it, so that there is none too many.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("a", buffering=1)

    def write(self, what: str, *fields: object) -> None:
        self.file.write("\t".join([what, *map(str, fields)]) + "\n")

    def close(self) -> None:
        self.file.close()


@dataclass
class Entry:
    """One job of a ledger."""

    kind: str
    at: float
    requests: list[list[str]] | None = None  # the msg_ids of each; None: it was being sent
    outcomes: list[str] | None = None  # of each; None: not ended


@dataclass
class Account:
    """What a ledger says when it is read from its beginning."""

    starts: int = 0
    last: float = 0.0  # when something was sent last
    sent: Counter[str] = field(default_factory=Counter)  # requests by kind
    ended: dict[str, Counter[str]] = field(default_factory=dict)  # outcomes by kind
    open: dict[int, Entry] = field(default_factory=dict)
    last_ended: int = -1  # the highest number of a job that has ended
    claimed: int = 0  # requests that a successor has seen to the end
    wrong: list[str] = field(default_factory=list)
    next: int = 0  # the number of the next job

    @classmethod
    def read(cls, path: Path) -> Account:
        found = cls()
        for line in lines(path):
            what, *rest = line.split("\t")
            getattr(found, f"_{what}")(*rest)
        return found

    def _start(self, at: str) -> None:
        self.starts += 1
        self.last = max(self.last, float(at))

    def _sending(self, number: str, kind: str, at: str) -> None:
        self.open[int(number)] = Entry(kind, float(at))
        self.next, self.last = int(number) + 1, float(at)

    def _sent(self, number: str, *requests: str) -> None:
        entry = self.open[int(number)]
        entry.requests = [one.split(",") for one in requests]
        self.sent[entry.kind] += len(requests)

    def _ended(self, number: str, *outcomes: str) -> None:
        entry = self.open.pop(int(number), None)
        if entry is None:
            self.wrong.append(f"job {number} ended twice")
            return
        if entry.requests is None:  # killed while it was sent: nobody knows how much of it left
            self.sent[entry.kind] += len(outcomes)
        elif len(entry.requests) != len(outcomes):
            self.wrong.append(f"job {number}: {len(outcomes)} of {len(entry.requests)} requests ended")
        self.ended.setdefault(entry.kind, Counter()).update(outcomes)
        if NEVER_LEFT not in outcomes and CUT_OFF not in outcomes:
            self.last_ended = max(self.last_ended, int(number))

    def _claimed(self, number: str) -> None:
        self.claimed += len(self.open[int(number)].requests or ())

    def _wrong(self, number: str, text: str) -> None:
        self.wrong.append(f"job {number}: {text}")


def lines(path: Path) -> Iterator[str]:
    """Yield the whole lines of a file: the last may have been cut by a kill."""
    if path.exists():
        with path.open() as file:
            yield from (line[:-1] for line in file if line.endswith("\n"))


class Sender:
    """Sends jobs, some at a time, looks at what has ended, and writes both down."""

    def __init__(self, rc: Client, name: str, path: Path, all_output: bool = True) -> None:
        self.rc, self.name, self.all_output = rc, name, all_output
        self.jobs: deque[Job] = deque()
        account = mend(path)
        self.next = account.next
        self.ledger = Ledger(path)
        self.ledger.write("start", time.time())
        self.enough = threading.Event()
        self.leaves = False  # does not wait for what is under way
        self.seen = 0  # jobs that have ended
        self.claim(account)

    def claim(self, account: Account) -> None:
        """Ask for the results of what a predecessor has sent.

        What it sent last may never have left it, if it was killed; but then nothing left it after that.
        """
        found: dict[int, Job] = {}
        for number, entry in account.open.items():
            requests = entry.requests or []
            try:
                results = [
                    self.rc.get_result(ids[0] if len(ids) == 1 else ids, block=False) for ids in requests
                ]
            except KeyError:
                continue
            if results:
                found[number] = Job(number, entry.kind, token_of(self.name, number), results, claimed=True)
        last_known = max([account.last_ended, *found])
        for number, entry in account.open.items():
            if number in found:
                self.ledger.write("claimed", number)
                self.jobs.append(found[number])
                continue
            age = account.last - entry.at
            if number < last_known or age > LOST_WITH_THE_CLIENT:
                self.complain(number, f"{entry.kind}, {age:.1f} s old, is not known, but {last_known} is")
            outcome = CUT_OFF if entry.requests is None else NEVER_LEFT
            self.ledger.write("ended", number, *[outcome] * len(entry.requests or [1]))

    def complain(self, number: int, text: str) -> None:
        self.ledger.write("wrong", number, re.sub(r"\s+", " ", text)[:2000])

    def run(self) -> None:
        """Send until it is enough, and then wait for what is under way."""
        while not self.enough.is_set():
            self.look()
            if len(self.jobs) >= OPEN or not self.send():
                self.enough.wait(0.005)
        deadline = time.monotonic() + PATIENCE
        while self.jobs and not self.leaves and time.monotonic() < deadline:
            self.look()
            time.sleep(0.02)
        if not self.leaves:
            for job in self.jobs:
                self.complain(job.number, f"{job.kind} has not ended: {job.results}")
                self.ledger.write("ended", job.number, *(OK if r.done() else LOST for r in job.results))
        self.ledger.close()

    def send(self) -> bool:
        """Send one more job, unless there is nobody to send it to."""
        if len(self.rc) < 2:
            return False
        number, self.next = self.next, self.next + 1
        self.ledger.write("sending", number, kind_of(self.name, number), time.time())
        try:
            job = send(self.rc, self.name, number)
        except (NoEnginesRegistered, IndexError):  # they left just now
            self.ledger.write("ended", number, CUT_OFF)
            return False
        self.ledger.write("sent", number, *(",".join(result.msg_ids) for result in job.results))
        self.jobs.append(job)
        return True

    def look(self) -> None:
        """Do what is due, and write down what has ended."""
        now = time.monotonic()
        for _ in range(len(self.jobs)):
            job = self.jobs.popleft()
            if job.later is not None and now >= job.due:
                job.later()
                job.later = None
            if not job.done:
                self.jobs.append(job)
                continue
            outcomes, wrong = judge(job, self.all_output)
            for text in wrong:
                self.complain(job.number, f"{job.kind}{' (claimed)' * job.claimed}: {text}")
            self.ledger.write("ended", job.number, *outcomes)
            self.seen += 1


def mend(path: Path) -> Account:
    """Read a ledger, and take off a line that was cut."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            path.write_bytes(data[: data.rfind(b"\n") + 1])
    return Account.read(path)


def connected(file: str) -> Client:
    """Return a client, also while the controller is on its way back."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Client(file)
        except (ConnectionFileError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def main(file: str, name: str, path: str, all_output: str) -> None:
    with connected(file) as rc:
        rc.wait_for_engines(2, interactive=False)
        sender = Sender(rc, name, Path(path), bool(int(all_output)))

        def listen() -> None:
            sender.leaves = sys.stdin.readline().strip() != "finish"
            sender.enough.set()

        threading.Thread(target=listen, daemon=True).start()
        sender.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
