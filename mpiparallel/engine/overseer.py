"""Who waits for whom in this world, and what is to be done about it: the leader's part of "never stuck".

A state machine without MPI, threads or clock; the courier of the leading rank feeds it and carries out what
it asks for. Ranks report waits that have lasted for a while. When these reports, and what is known of the
requests, suggest that somebody may wait in vain, the overseer asks the ranks concerned for their counts of
messages and calls, twice: ranks that were in the same wait at both times were so together at one moment in
between, and as blocked ranks send nothing, their counts belong to that moment. Only then does it judge
(`deadlock`), and ends the waits which it has proved to be in vain. Nothing here is guessed from time.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from mpiparallel.engine import deadlock
from mpiparallel.engine.generations import base_of
from mpiparallel.wire.between import Blocked, Broken, Cut, Examine, Ledgers, Renew
from mpiparallel.wire.messages import AnyHeader, Failure, Result

RECONSIDER = 0.25  # seconds between looks at waits about which nothing could be proved
DOOMED_AFTER = 0.5  # seconds for which a call that lacks a failed rank may yet end by itself
ANSWER_WITHIN = 2.0  # seconds in which a courier answers, unless user code holds the GIL
WORLD = "world"  # the communicator of all
REMEMBERED = 4096  # replaced communicators whose late reports are recognised


@dataclass(slots=True)
class Request:
    """One request, as far as this world has a part in it."""

    name: str
    client: str
    ranks: frozenset[int]
    ended: dict[int, str] = field(default_factory=dict)  # "ok", or what went wrong
    causes: dict[int, tuple[int, str]] = field(default_factory=dict)  # of ranks freed: who failed, and how


@dataclass
class _Stuck:
    """One report of a wait."""

    report: Blocked
    since: float
    noticed: bool = False


@dataclass
class _Examination:
    """Two rounds of questions to the same ranks."""

    round: int
    ranks: frozenset[int]
    comms: list[str]
    began: float
    first: dict[int, Ledgers] | None = None
    answers: dict[int, Ledgers] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)  # who has ended a task since it began


class Overseer:
    """Judges the waits of one world.

    Parameters
    ----------
    me
        The rank that leads.
    ranks
        Those alive, by their numbers in the world as it began.
    tell
        Called with (rank, header) to send a message to a rank, this one perhaps.
    renew
        Called with (ranks, header): make a communicator of these ranks, and send `header` to each of
        them with its number.
    notice
        Called with (client, request, text) for what a person should know.
    notice_after
        Seconds after which a wait is told to the client.
    """

    def __init__(
        self,
        me: int,
        ranks: Iterable[int],
        tell: Callable[[int, AnyHeader], None],
        renew: Callable[[Sequence[int], Renew], None],
        notice: Callable[[str, str, str], None],
        notice_after: float = 30.0,
    ) -> None:
        self._me, self.alive = me, set(ranks)
        self.dead: dict[int, str] = {}
        self._tell, self._renew, self._notice = tell, renew, notice
        self._notice_after = notice_after
        self._requests: dict[str, Request] = {}
        self._sets: dict[tuple[int, ...], frozenset[int]] = {}  # the same few come again and again
        self._open: defaultdict[int, dict[str, None]] = defaultdict(dict)  # by rank, in the order they run
        self._blocked: dict[int, _Stuck] = {}
        self._examination: _Examination | None = None
        self._round = 0
        self._considered = 0.0
        self._again = False  # whether something happened that the examination under way does not know
        self._renewals = 0
        self._renewed: OrderedDict[str, None] = OrderedDict()  # ids that have been replaced
        self._asked: dict[int, float] = {}  # ranks that were interrupted and owe a sign of life
        self.silent: list[int] = []  # those that did not give it; the courier takes them from here

    # ------------------------------------------------------------ requests

    def submitted(self, name: str, client: str, ranks: Iterable[int]) -> None:
        """Note a request that was handed to `ranks`."""
        if name in self._requests:
            return
        places = tuple(ranks)
        members = self._sets.get(places)
        if members is None:
            if len(self._sets) > REMEMBERED:
                self._sets.clear()
            members = self._sets[places] = frozenset(places)
        request = self._requests[name] = Request(name, client, members)
        for rank in places:
            self._open[rank][name] = None
            if rank not in self.alive:
                self._end(request, rank, self.dead.get(rank, "it is not there"))

    def result(self, rank: int, result: Result, now: float) -> None:
        """Note how the part of `rank` in a request has ended."""
        self._unblock(rank)
        if self._examination is not None:
            self._examination.moved.add(rank)  # its answer may be from before, or from after
        request = self._requests.get(result.request)
        if request is None:
            return
        outcome = "ok"
        if result.status == "aborted":
            outcome = "its part of the request was aborted"
        elif result.failure is not None:
            outcome = _one_line(result.failure)
        self._end(request, rank, outcome)
        if self._blocked:
            self._consider(now)

    def withdrawn(self, name: str, rank: int) -> None:
        """Forget that `rank` has a part in a request: it was given back before it began."""
        request = self._requests.get(name)
        if request is not None:
            request.ranks -= {rank}
            self._open.get(rank, {}).pop(name, None)
            if request.ranks <= request.ended.keys():
                self._requests.pop(name, None)

    def ended_before(self, name: str, rank: int, outcome: str) -> None:
        """Note what a rank remembers of a request that ended under another leader."""
        request = self._requests.get(name)
        if request is not None:
            self._end(request, rank, outcome)

    def _end(self, request: Request, rank: int, outcome: str) -> None:
        request.ended[rank] = outcome
        self._open.get(rank, {}).pop(request.name, None)
        if request.ranks <= request.ended.keys():
            self._requests.pop(request.name, None)

    def open_on(self, rank: int) -> list[Request]:
        """Return the requests that `rank` has not answered, in the order they run."""
        return [self._requests[name] for name in self._open.get(rank, ()) if name in self._requests]

    def is_open_for(self, ranks: Collection[int]) -> bool:
        """Whether there is a request that just these ranks have a part in."""
        wanted = frozenset(ranks)
        return any(request.ranks == wanted for request in self.open_on(min(wanted)))

    # ------------------------------------------------------------ waits

    def blocked(self, report: Blocked, now: float) -> None:
        """Take the report of a rank that waits, or does not any more."""
        if report.wait is None:
            self._unblock(report.rank)
        elif report.rank in self.alive:
            self._blocked[report.rank] = _Stuck(report, now - report.wait.seconds)
            self._consider(now)

    def _unblock(self, rank: int) -> None:
        self._blocked.pop(rank, None)

    def _situation(self) -> deadlock.Situation:
        """Return what is known now."""
        ranks: dict[int, deadlock.RankState] = {}
        for rank in self.alive:
            stuck = self._blocked.get(rank)
            waiting = self._open.get(rank, {})
            if stuck is not None:
                report, queued = stuck.report, max(0, len(waiting) - 1)
                ranks[rank] = deadlock.RankState("blocked", queued, report.request, report.wait, report.line)
            else:
                ranks[rank] = deadlock.RankState("running" if waiting else "idle", 0)
        concerned = {stuck.report.request for stuck in self._blocked.values()}
        requests = {
            name: deadlock.RequestState(request.ranks, request.ended)
            for name, request in self._requests.items()
            if name in concerned
        }
        return deadlock.Situation(ranks, requests, self.dead)

    def _consider(self, now: float) -> None:
        """Begin to examine those who may wait in vain, if anybody."""
        if self._examination is not None:
            self._again = True
            return
        self._considered = now
        situation = self._situation()
        suspects = deadlock.suspects(situation)
        if not suspects and self._some_failed():
            suspects = set(self._blocked) | self._idle()
        suspects &= self.alive
        if not suspects:
            return
        comms = {
            part.comm
            for rank in suspects
            if (stuck := self._blocked.get(rank)) is not None and stuck.report.wait is not None
            for part in stuck.report.wait.parts
            if part.comm
        }
        self._begin_round(_Examination(0, frozenset(suspects), sorted(comms), now))

    def _some_failed(self) -> bool:
        """Whether a rank has failed in a request in which others wait: a call may then hang in its midst."""
        requests = {stuck.report.request for stuck in self._blocked.values()} & self._requests.keys()
        return any(outcome != "ok" for name in requests for outcome in self._requests[name].ended.values())

    def _idle(self) -> set[int]:
        return {rank for rank in self.alive if not self._open.get(rank)}

    def _begin_round(self, examination: _Examination) -> None:
        self._round += 1
        examination.round = self._round
        self._examination = examination
        for rank in sorted(examination.ranks):
            self._tell(rank, Examine(self._round, examination.comms))

    def ledgers(self, answer: Ledgers, now: float) -> None:
        """Take a rank's answer to Examine."""
        self._asked.pop(answer.rank, None)
        examination = self._examination
        if examination is None or answer.round != examination.round:
            return
        examination.answers[answer.rank] = answer
        if examination.answers.keys() < examination.ranks:
            return
        if examination.first is None:
            examination.first, examination.answers = examination.answers, {}
            self._begin_round(examination)
            return
        self._examination = None
        self._judge(examination, now)
        if self._again:
            self._again = False
            self._consider(now)

    def _judge(self, examination: _Examination, now: float) -> None:
        assert examination.first is not None
        situation = self._situation()
        ledgers = {}
        for rank, answer in examination.answers.items():
            state = situation.ranks.get(rank)
            still = _same(examination.first[rank], answer) and rank not in examination.moved
            if state is None or not still or not _as_reported(state, answer):
                # It has moved on: who waits for it may yet be served.
                situation.ranks[rank] = deadlock.RankState("running", 0)
                continue
            situation.ranks[rank] = deadlock.RankState(
                state.doing, answer.queued, state.request, answer.wait, state.line
            )
            ledgers[rank] = answer.ledgers
        for rank in self.alive - examination.answers.keys():
            if situation.ranks[rank].doing == "blocked":
                # Blocked in a wait that was not asked about: nothing is proved about it.
                situation.ranks[rank] = deadlock.RankState("running", 0)
        verdicts = deadlock.analyse(situation, ledgers)
        if not verdicts:
            verdicts = [
                verdict
                for verdict in deadlock.doomed(situation, ledgers)
                if now - self._blocked[verdict.rank].since > DOOMED_AFTER
            ]
        for verdict in verdicts:
            self._cut(verdict)

    def _cut(self, verdict: deadlock.Verdict) -> None:
        stuck = self._blocked.pop(verdict.rank, None)
        if stuck is None or stuck.report.wait is None:
            return
        if verdict.cause is None:
            self._tell(verdict.rank, Cut(stuck.report.wait.number, Failure("DeadlockError", verdict.text)))
            return
        request = self._requests.get(stuck.report.request)
        cause, error = verdict.cause, verdict.error
        if request is not None:
            # A rank that was itself freed because of another passes the blame on.
            cause, error = request.causes.get(cause, (cause, error))
            request.causes[verdict.rank] = (cause, error)
        failure = Failure("PeerFailed", error, _in_words(stuck.report))
        self._tell(verdict.rank, Cut(stuck.report.wait.number, failure, cause))

    # ------------------------------------------------------------ communicators

    def broken(self, report: Broken) -> None:
        """Renew a communicator that cannot be used any more; only the first report of it counts."""
        members = [rank for rank in report.members if rank in self.alive]
        if base_of(report.comm) == WORLD and len(members) < len(report.members):
            return  # it was renewed when we heard of the death
        if report.topology and len(members) < len(report.members):
            return  # a grid with holes is none: user code has to make another
        if report.comm in self._renewed:
            return
        self._renewed[report.comm] = None
        if len(self._renewed) > REMEMBERED:
            self._renewed.popitem(last=False)
        self._order(report.comm, members, report.topology)

    def _order(self, comm: str, members: list[int], topology: list[list[int]]) -> None:
        self._renewals += 1
        # By the leader's rank, too: another one's numbers are not known to its successor.
        fresh = f"{base_of(comm)}~{self._me}.{self._renewals}"
        self._renew(members, Renew(comm, fresh, 0, members, topology))

    # ------------------------------------------------------------ ranks that die or keep silent

    def lost(self, ranks: Iterable[int], now: float) -> None:
        """Note that these ranks have died, while the others go on."""
        for rank in ranks:
            self.alive.discard(rank)
            self.dead[rank] = "its process died"
            self._unblock(rank)
            self._asked.pop(rank, None)
            for name in list(self._open.pop(rank, ())):
                if name in self._requests:
                    self._end(self._requests[name], rank, self.dead[rank])
        self._examination = None
        self.renew_world()
        if self._blocked:
            self._consider(now)

    def renew_world(self) -> None:
        """Give those who live a communicator of their own."""
        members = sorted(self.alive)
        self._order(WORLD, members, [])

    def interrupted(self, ranks: Iterable[int], now: float) -> None:
        """Note that these ranks were sent a signal: their couriers should answer."""
        for rank in ranks:
            if rank in self.alive and rank not in self._asked:
                self._asked[rank] = now
                self._tell(rank, Examine(0, []))

    def tick(self, now: float) -> None:
        """Give up on couriers that do not answer, and tell people of long waits."""
        late = [rank for rank, asked in self._asked.items() if now - asked > ANSWER_WITHIN]
        for rank in late:
            del self._asked[rank]
            self.silent.append(rank)
        examination = self._examination
        if examination is not None and now - examination.began > 2 * ANSWER_WITHIN:
            self._examination = None  # somebody holds the GIL; to be looked at again with the next event
        elif examination is None and self._blocked and now - self._considered > RECONSIDER:
            self._consider(now)
        self._notice_long_waits(now)

    def _notice_long_waits(self, now: float) -> None:
        long: dict[str, list[_Stuck]] = {}
        for stuck in self._blocked.values():
            if not stuck.noticed and now - stuck.since >= self._notice_after:
                long.setdefault(stuck.report.request, []).append(stuck)
        if not long:
            return
        picture = deadlock.picture(self._situation())
        for name, several in long.items():
            for stuck in several:
                stuck.noticed = True
            request = self._requests.get(name)
            if request is not None:
                seconds = now - min(stuck.since for stuck in several)
                self._notice(request.client, name, f"waiting for {seconds:.0f} s, not given up:\n{picture}")


def _same(first: Ledgers, second: Ledgers) -> bool:
    """Whether a rank was in one and the same state at both times, and so in between."""
    return (
        first.tasks == second.tasks
        and first.busy == second.busy
        and first.queued == second.queued
        and (first.wait.number if first.wait else None) == (second.wait.number if second.wait else None)
    )


def _as_reported(state: deadlock.RankState, answer: Ledgers) -> bool:
    """Whether a rank is still in the state that was known of it."""
    if state.doing == "blocked":
        return answer.wait is not None and state.wait is not None and answer.wait.number == state.wait.number
    return answer.wait is None and answer.busy == (state.doing == "running")


def _in_words(report: Blocked) -> str:
    """Return where the rank was, for the error that it gets."""
    assert report.wait is not None
    names = sorted({report.wait.names.get(part.comm, part.comm) for part in report.wait.parts if part.comm})
    text = f"this rank was in {report.wait.call}" + (f" on {', '.join(names)}" if names else "")
    return text + (f", {report.line}" if report.line else "")


def _one_line(failure: Failure) -> str:
    text = f"{failure.ename}: {failure.evalue}".strip().splitlines()
    return text[0][:300] if text else failure.ename
