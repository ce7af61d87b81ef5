"""The kinds of jobs that the soak sends, and how each may end.

A job is made of one request or a few. What it does follows from the name of its client and its number alone,
so that another process, which takes over, knows what should have become of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpiparallel.error import CompositeError, RemoteError

# Ctrl-C of any client ends what runs on that engine, whosever it is, and frees those who wait for it.
DISTURBED = {"KeyboardInterrupt", "PeerFailed", "CommunicatorBroken"}
# An error takes what the same client has queued behind it on that engine out of the queue; the other engines
# may wait for it in a collective.
BEHIND_AN_ERROR = {"TaskAborted", "DeadlockError"}
OK = "ok"


def typed(f: Callable[..., Any]) -> Callable[..., Any]:
    """Let `f` travel by value, as if it had been typed at a prompt."""
    f.__module__ = "__main__"
    return f


# ---------------------------------------------------------------- what engines do


@typed
def echo(token: str, seconds: float = 0.0) -> str:
    import time

    time.sleep(seconds)
    return token


@typed
def bulky(token: str, ballast: bytes = bytes(range(256)) * 64) -> str:
    return token + str(len(ballast))


@typed
def fail(token: str) -> None:
    raise ValueError(token)


@typed
def only_at_rank_0(token: str) -> str:
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank:
        raise ValueError(token)
    return token


@typed
def process() -> int:
    import os

    return os.getpid()


@typed
def square(number: int) -> int:
    return number * number


@typed
def reciprocal(number: int) -> float:
    return 1 / number


@typed
def meet(token: str) -> tuple[str, int]:
    import mpiparallel

    comm = mpiparallel.current_comm()
    return token, comm.allreduce(1)


@typed
def meet_in_vain(token: str) -> None:
    import mpiparallel

    comm = mpiparallel.current_comm()
    if comm.rank == 0:
        raise ValueError(token)
    comm.barrier()


MEET = "assert comm.allreduce(1) == comm.size"
PRINT = "for line in range(200): print('line', line, {token!r})"
DIVIDE = "1 / 0  # {token}"
LINGER = "import time\nfor _ in range(150): time.sleep(0.01)"


# ---------------------------------------------------------------- what clients send


@dataclass
class Job:
    """One job under way."""

    number: int
    kind: str
    token: str
    results: list[Any]
    expected: list[Any] = field(default_factory=list)  # values by request; none: not looked at
    later: Callable[[], object] | None = None  # to be done when it runs
    due: float = 0.0
    claimed: bool = False

    @property
    def done(self) -> bool:
        return all(result.done() for result in self.results)


@dataclass(frozen=True)
class Kind:
    """How often it is sent, and by what errors its requests may end besides being disturbed."""

    send: Callable[[Any, random.Random, str], tuple[list[Any], list[Any]]]
    weight: int
    errors: frozenset[str] = frozenset()
    always: str = ""  # the error with which the last request must end, if nothing disturbs it
    direct: bool = False

    def may_end(self) -> set[str]:
        """Return how a request of this kind may end."""
        return {OK, *self.errors, *([self.always] if self.always else []), *DISTURBED} | (
            BEHIND_AN_ERROR if self.direct else set()
        )


def worlds(rc: Any) -> list[list[int]]:
    """Return the engines of each world."""
    found: dict[str, list[int]] = {}
    for number, info in sorted(rc._connection.engines.items()):
        found.setdefault(info.world, []).append(number)
    return list(found.values())


def _apply(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    chosen = dice.sample(rc.ids, dice.randint(1, len(rc)))
    return [rc[chosen].apply_async(echo, token)], [[token] * len(chosen)]


def _collective(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc[dice.choice(worlds(rc))].execute(MEET, block=False)], []


def _output(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc[dice.choice(rc.ids)].execute(PRINT.format(token=token), block=False)], []


def _error(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc[dice.choice(rc.ids)].execute(DIVIDE.format(token=token), block=False)], []


def _push(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    view, size = rc[dice.choice(worlds(rc))], dice.choice([1 << 17, 1 << 18, 1 << 19])
    name = f"pushed_{token.split('-')[0]}"
    pushed = view.push({name: np.ones(size)}, block=False)
    return [pushed, view.pull(f"{name}.nbytes", block=False)], [None, [8 * size] * len(view)]


def _interrupt(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc[dice.choice(rc.ids)].execute(LINGER, block=False)], []


def _single(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    view, f = rc.load_balanced_view(), dice.choice([echo, bulky])
    wanted = token if f is echo else f"{token}{256 * 64}"
    return [view.apply_async(f, token)], [wanted]


def _many(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    view, tokens = rc.load_balanced_view(), [f"{token}/{i}" for i in range(30)]
    results = [view.apply_async(echo, one, dice.choice([0, 0, 0.003])) for one in tokens]
    return results, list(tokens)


def _failing(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc.load_balanced_view().apply_async(fail, token)], []


def _retried(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc.load_balanced_view(retries=len(rc)).apply_async(only_at_rank_0, token)], [token]


def _hopeless(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc.load_balanced_view(retries=1).apply_async(fail, token)], []


def _after(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    first = rc.load_balanced_view().apply_async(echo, token, 0.005)
    second = rc.load_balanced_view(after=first).apply_async(echo, token)
    third = rc.load_balanced_view(after=[first, second]).apply_async(echo, token)
    return [first, second, third], [token] * 3


def _impossible(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    first = rc.load_balanced_view().apply_async(fail, token)
    return [first, rc.load_balanced_view(after=first).apply_async(echo, token)], []


def _follow(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    first = rc.load_balanced_view().apply_async(process)
    return [first, rc.load_balanced_view(follow=first).apply_async(process)], []


def _timeout(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    engine = dice.choice(rc.ids)
    view = rc.load_balanced_view([engine])
    long = view.apply_async(echo, token, 0.3)
    return [long, rc.load_balanced_view([engine], timeout=0.1).apply_async(echo, token)], [token, token]


def _map(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    number = dice.choice([50, 500])
    result = rc.load_balanced_view().map_async(square, range(number), chunksize=number // 10)
    return [result], [[i * i for i in range(number)]]


def _failing_map(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc.load_balanced_view().map_async(reciprocal, range(-20, 20), chunksize=4)], []


def _gang(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    ranks = dice.randint(2, max(len(world) for world in worlds(rc)))
    return [rc.load_balanced_view(ranks=ranks).apply_async(meet, token)], [[(token, ranks)] * ranks]


def _failing_gang(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    return [rc.load_balanced_view(ranks=2).apply_async(meet_in_vain, token)], []


def _aborted(rc: Any, dice: random.Random, token: str) -> tuple[list[Any], list[Any]]:
    view = rc.load_balanced_view()
    results = [view.apply_async(echo, token, 0.01) for _ in range(15)]
    rc.abort(results[5:], block=False)
    return results, [token] * 15


KINDS: dict[str, Kind] = {
    "apply": Kind(_apply, 20, direct=True),
    "collective": Kind(_collective, 6, direct=True),
    "output": Kind(_output, 4, direct=True),
    "error": Kind(_error, 2, always="ZeroDivisionError", direct=True),
    "push": Kind(_push, 3, direct=True),
    "interrupt": Kind(_interrupt, 1, direct=True),
    "single": Kind(_single, 30),
    "many": Kind(_many, 8),
    "failing": Kind(_failing, 6, always="ValueError"),
    "retried": Kind(_retried, 5),
    "hopeless": Kind(_hopeless, 3, always="ValueError"),
    "after": Kind(_after, 5),
    "impossible": Kind(_impossible, 2, frozenset({"ValueError"}), always="ImpossibleDependency"),
    "follow": Kind(_follow, 3),
    "timeout": Kind(_timeout, 1, frozenset({"TaskTimeout"})),
    "map": Kind(_map, 5),
    "failing map": Kind(_failing_map, 2, always="ZeroDivisionError"),
    "gang": Kind(_gang, 5),
    "failing gang": Kind(_failing_gang, 1, always="ValueError"),
    "aborted": Kind(_aborted, 2, frozenset({"TaskAborted"})),
}


def token_of(client: str, number: int) -> str:
    return f"{client}-{number}"


def kind_of(client: str, number: int) -> str:
    """Return the kind of a client's job."""
    dice = random.Random(f"kind of {client} {number}")
    return dice.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]


def send(rc: Any, client: str, number: int) -> Job:
    """Send a job."""
    kind = kind_of(client, number)
    dice = random.Random(f"{client} {number}")
    token = token_of(client, number)
    results, expected = KINDS[kind].send(rc, dice, token)
    job = Job(number, kind, token, results, expected)
    if kind == "interrupt":
        engine = rc._connection.tasks[results[0].msg_ids[0]].engine
        job.later, job.due = (lambda: rc.interrupt([engine])), time.monotonic() + dice.uniform(0.05, 0.5)
    return job


# ---------------------------------------------------------------- how they end


def names(error: BaseException) -> list[str]:
    """Return the names of the errors that are in one."""
    if isinstance(error, CompositeError):
        return [name for name, *_ in error.elist]
    return [error.ename if isinstance(error, RemoteError) else type(error).__name__]


def judge(job: Job, all_output: bool = True) -> tuple[list[str], list[str]]:
    """Return how each request of a finished job ended, and what is wrong with that.

    Results survive a controller that is killed, output on its way need not: then not `all_output` comes.
    """
    kind, outcomes, wrong = KINDS[job.kind], [], []
    allowed = kind.may_end()
    for number, result in enumerate(job.results):
        error = result.exception(0)
        found = [OK] if error is None else names(error)
        outcomes.append(found[0])
        odd = [name for name in found if name not in allowed]
        # What waits for a task that somebody has interrupted cannot begin.
        if odd == ["ImpossibleDependency"] and any(outcome in DISTURBED for outcome in outcomes):
            odd = []
        if odd:
            trace = getattr(error, "traceback", "")
            wrong.append(f"request {number} ended with {odd}: {error}\n{trace[-3000:]}")
        if error is None and not job.claimed:
            wrong.extend(_check_value(job, number, result.get(0), all_output))
    if kind.always and outcomes[-1] == OK:
        wrong.append(f"it should have ended with {kind.always}")
    return outcomes, wrong


def _check_value(job: Job, number: int, value: Any, all_output: bool) -> Sequence[str]:
    if job.kind == "follow" and number == 1 and job.results[0].exception(0) is None:
        return [] if value == job.results[0].get(0) else ["it ran on another engine than what it follows"]
    if job.kind == "after" and number and job.results[number - 1].exception(0) is None:
        before, after = job.results[number - 1].metadata, job.results[number].metadata
        if after["started"] < before["completed"]:
            return ["it began before what it waits for had ended"]
    if job.kind == "output" and all_output and f"line 199 {job.token}" not in job.results[0].stdout:
        return [f"the last line of its output did not come, of {len(job.results[0].stdout)} characters"]
    if job.kind == "push" and job.results[0].exception(0) is not None:
        return []  # it was taken out of an engine's queue, say, and what is there is what was there before
    if number >= len(job.expected) or job.expected[number] is None:
        return []
    wanted = job.expected[number]
    return (
        [] if value == wanted else [f"request {number} returned {str(value)[:200]}, not {str(wanted)[:200]}"]
    )
