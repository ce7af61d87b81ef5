"""Asks the batch system what has become of the jobs of worlds that are cut off or silent.

A world whose job was ended says nothing: its processes are killed, or its node has gone. The batch system
knows why, and whether the job will run again. The server calls `look` in each round; programs that are asked
run beside it, so that nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mpiparallel import batchjob
from mpiparallel.batchjob import BatchJob, Facts, Question
from mpiparallel.controller import probe
from mpiparallel.controller.state import World

SILENT = 3.0  # times the heartbeat for which a world may say nothing
PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds between questions, the last again and again
SUSPECT_FOR = 5.0  # seconds for which the end of a world is held back until its job is known to have ended
ANSWERS = 0.03  # seconds between looks for an answer
MAX_AT_ONCE = 4  # programs that run at the same time


class Finding(NamedTuple):
    """What the batch system says of a world: its job has ended, waits for another turn, or just `runs`."""

    world: str
    text: str
    returns: bool = False
    runs: bool = False


@dataclass
class _Case:
    """A world that is looked into."""

    job: BatchJob
    hosts: list[str]
    ask_at: float
    times: int = 0
    question: Question | None = None
    facts: Facts | None = None  # of a job that has ended, while more is asked about that
    then: Callable[[str | None], str] = field(default=lambda text: "")


class Jobs:
    """The look at jobs.

    Parameters
    ----------
    heartbeat : float
    ask : callable
        Starts a question.
    can_ask : callable
        Says whether a job can be asked about here.
    """

    def __init__(
        self,
        heartbeat: float,
        ask: Callable[[Sequence[str]], Question] = Question,
        can_ask: Callable[[BatchJob], bool] = batchjob.can_ask,
    ) -> None:
        self._silent = SILENT * heartbeat
        self._ask, self._can_ask = ask, can_ask
        self._cases: dict[str, _Case] = {}
        self._suspected: dict[str, tuple[str, float]] = {}  # what is told, at the latest when

    def close(self) -> None:
        for case in self._cases.values():
            if case.question is not None:
                case.question.close()
        self._cases.clear()

    def knows(self, world: World) -> bool:
        """Whether the batch system can be asked about a world."""
        job = batchjob.named(world.hello.job, world.hello.restarts)
        return job is not None and self._can_ask(job)

    def suspect(self, world: World, reason: str, now: float) -> None:
        """Look into a world that was ended for `reason`, behind which the batch system may be."""
        self._suspected.setdefault(world.name, (reason, now + SUSPECT_FOR))

    def due(self, now: float) -> float:
        """Return when `look` has something to do: a time, or infinity."""
        if not self._cases and not self._suspected:
            return float("inf")
        if self._suspected.keys() - self._cases.keys():
            return now
        if any(case.question is not None for case in self._cases.values()):
            return now + ANSWERS
        return min(case.ask_at for case in self._cases.values())

    def look(self, worlds: Iterable[World], now: float) -> list[Finding]:
        """Return what has been found out about worlds that are cut off or silent."""
        all_worlds = {world.name: world for world in worlds}
        for name in self._suspected.keys() - all_worlds.keys():
            del self._suspected[name]
        suspects = {
            name: world
            for name, world in all_worlds.items()
            if name in self._suspected or self._is_suspect(world, now)
        }
        for name in self._cases.keys() - suspects.keys():
            self._forget(name)
        for name, world in suspects.items():
            if name not in self._cases and self.knows(world):
                job = batchjob.named(world.hello.job, world.hello.restarts)
                assert job is not None
                self._cases[name] = _Case(job, list(dict.fromkeys(world.hello.hosts)), now)
        findings = [Finding(name, why) for name, (why, until) in self._suspected.items() if now >= until]
        for late in findings:
            self._forget(late.world)
        for name, case in list(self._cases.items()):
            finding = self._go_on(name, case, now)
            if finding is not None:
                findings.append(finding)
                if not finding.runs:
                    self._forget(name)
        return findings

    def _is_suspect(self, world: World, now: float) -> bool:
        silent = world.peer is None or now - world.heard > self._silent
        return bool(world.hello.job) and not world.watched and silent

    def _forget(self, name: str) -> None:
        self._suspected.pop(name, None)
        case = self._cases.pop(name, None)
        if case is not None and case.question is not None:
            case.question.close()

    def doubt(self, world: World, reason: str) -> bool:
        """Look whether a host of a world has gone before it is told that the world ended for `reason`.

        Return whether that is worth while; a finding follows.
        """
        hosts = list(dict.fromkeys(world.hello.hosts))
        job = batchjob.named(world.hello.job)
        if len(hosts) < 2 or job is None:
            return False
        question = self._ask(probe.argv(job.system, hosts))
        self._cases[world.name] = _Case(
            job, hosts, 0.0, question=question, facts=Facts("ended"),
            then=lambda text: probe.told(text, reason),
        )  # fmt: skip
        return True

    def _go_on(self, name: str, case: _Case, now: float) -> Finding | None:
        if case.question is None:
            running = sum(one.question is not None for one in self._cases.values())
            if now >= case.ask_at and running < MAX_AT_ONCE:
                case.question = self._ask(batchjob.question(case.job))
            return None
        if not case.question.answered:
            return None
        answer, case.question = case.question.text, None
        if case.facts is not None:
            return Finding(name, case.then(answer), case.facts.phase == "waits")
        case.ask_at = now + PAUSES[min(case.times, len(PAUSES) - 1)]
        case.times += 1
        facts = batchjob.facts(case.job, answer, 0.0)
        if facts.phase == "runs" and facts.restarts > case.job.restarts:
            facts = facts._replace(phase="waits")  # it has had its other turn already
        if facts.phase in ("ended", "waits"):
            return self._ask_more(name, case, facts)
        if facts.phase == "runs" and name in self._suspected:
            return Finding(name, self._suspected[name][0])
        return Finding(name, "", runs=True) if facts.phase == "runs" else None

    def _ask_more(self, name: str, case: _Case, facts: Facts) -> Finding | None:
        """Ask who has cancelled a job, or which node has failed; return what is found if there is no more."""
        job = case.job
        if job.system == "slurm" and (facts.state == "NODE_FAIL" or facts.phase == "waits"):
            case.facts = facts
            case.then = lambda text: batchjob.words(job, facts, batchjob.failed_nodes(text))
            case.question = self._ask(batchjob.nodes_question(case.hosts))
            return None
        if job.system == "slurm" and facts.state == "CANCELLED":
            case.facts = facts
            case.then = lambda text: batchjob.words(job, facts, who=batchjob.canceller(text))
            case.question = self._ask(batchjob.who_question(job))
            return None
        told = batchjob.told(facts)
        return Finding(name, batchjob.words(job, facts) if told else "")
