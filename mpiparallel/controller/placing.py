"""Which task goes to which engine, and when.

Events only note where something has changed; `run`, at the end of each, fills the engines that have room
again and serves the queues that have grown. Between events no task waits that an engine with room may have,
except for engines that a gang is to have.

An engine has *room* for one more task while what it has is expected to be done within milliseconds; so short
tasks are sent ahead, and long ones are not. When an expectation was wrong, and another engine has nothing to
do, what waits behind a long task is called back.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpiparallel.controller import dependencies, endings, gangs
from mpiparallel.controller.balancing import Balancing
from mpiparallel.controller.jobs import Balanced, Job
from mpiparallel.controller.lives import BALANCED, BalancedEvent, BalancedState
from mpiparallel.controller.pools import GANG, STUCK, Pool, Queue, Seat
from mpiparallel.controller.state import Send, State
from mpiparallel.wire.messages import Message, Recall, Submit

MOST = 128  # tasks on one engine
WINDOW = 0.010  # seconds of work that is sent ahead: several round trips
NEXT = 0.5  # one task may wait behind another that takes less than this
UNKNOWN = 1.0  # seconds that a task counts for whose function has not been run yet
PATIENCE = 0.005  # seconds without progress after which tasks may be called back
MAX_LEVEL = 1000  # loads beyond this count as equal
MAX_KNOWN = 10_000  # functions remembered for each engine

_OPEN = BALANCED[BalancedState.QUEUED, BalancedEvent.PLACED]


# ---------------------------------------------------------------- queues


def park_or_queue(state: State, job: Job, tasks: list[Balanced]) -> None:
    """Queue new tasks of a job, or let them wait for what is missing."""
    job.parked += tasks
    if job.function.frames is None:
        job.function.parked[job] = None
    else:
        ready(state, job)


def ready(state: State, job: Job) -> None:
    """Queue a job's tasks, whose function is there, unless they wait for others."""
    if not dependencies.enter(state, job):
        queue_parked(state, job)


def queue_parked(state: State, job: Job) -> None:
    """Queue a job's tasks: nothing is left to wait for."""
    targets = dependencies.places(state, job)
    if targets is not None:
        present = targets & state.balancing.seats.keys()
        if not present and not state.paused:
            numbers = ", ".join(map(str, sorted(targets)[:10])) or "none"
            text = f"none of the engines that it may run on is there (engines {numbers})"
            dependencies.fail_job(state, job, "ImpossibleDependency", text)
            return
    job.pool = state.balancing.pool(targets)
    parked, job.parked = job.parked, []
    for task in parked:
        if task.state is BalancedState.WAITING:
            task.advance(BalancedEvent.READY)
            enqueue(state, task)


def enqueue(state: State, task: Balanced, front: bool = False) -> None:
    """Put a task that is QUEUED into its queue."""
    table = state.balancing
    job = task.job
    pool = job.pool
    assert pool is not None
    if job.header.ranks > 1:
        gangs.enqueue(state, task, front)
        return
    queue = pool.queue if not task.excluded else pool.queue_of(task, table.turns)
    if front:
        queue.push_front(task)
    else:
        queue.push(task)
    table.pools_to_serve[pool] = None


# ---------------------------------------------------------------- engines


def has_room(table: Balancing, seat: Seat) -> bool:
    """Return whether an engine is to have one more task."""
    if seat.closed:
        return False
    load = len(seat.open) + seat.direct
    if not load:
        return True
    if table.hwm is not None:
        return not table.hwm or load < table.hwm
    return load < MOST and (seat.expected < WINDOW or (load == 1 and seat.expected < NEXT))


def relist(state: State, seat: Seat) -> None:
    """Tell the policies of an engine's load."""
    table = state.balancing
    level = -1
    if has_room(table, seat):
        level = min(len(seat.open) + seat.direct, MAX_LEVEL)
    old = seat.level
    if level == old:
        return
    for pool in seat.pools:
        pool.free.move(seat, old, level)
        pool.idle += (level == 0) - (old == 0)
    seat.level = level
    if level == 0:
        seat.crew.idle[seat.number] = seat
        if table.gangs:
            table.crews_to_fill[seat.crew] = None
    elif old == 0:
        seat.crew.idle.pop(seat.number, None)


def progress(state: State, seat: Seat, now: float) -> None:
    """Note that an engine gets on."""
    table = state.balancing
    seat.progress = now
    seat.closed &= ~STUCK
    if seat.open and len(seat.open) + seat.direct > 1:
        if seat.behind is not None:
            seat.behind.behind.move_to_end(seat)
        else:
            _put_behind(table, seat, next(reversed(seat.open.values())).job.pool)
    elif seat.behind is not None:
        leave_behind(table, seat)
    table.seats_to_fill[seat] = None


def _put_behind(table: Balancing, seat: Seat, pool: Pool | None) -> None:
    if pool is None or seat.closed & GANG:
        return
    if not pool.behind:
        table.hungry[pool] = None
    pool.behind[seat] = None
    seat.behind = pool


def leave_behind(table: Balancing, seat: Seat) -> None:
    """Note that there is nothing to call back from an engine."""
    pool = seat.behind
    if pool is not None:
        seat.behind = None
        del pool.behind[seat]
        if not pool.behind:
            table.hungry.pop(pool, None)


def take_off(seat: Seat, task: Balanced) -> None:
    """Note that an engine does not have a task any longer."""
    del seat.open[task.name]
    if seat.open or seat.direct:
        seat.expected -= task.cost
    else:
        seat.expected = 0.0
        seat.closed &= ~STUCK


def take_back(state: State, task: Balanced, seat: Seat) -> None:
    """Note that an engine never had a task, or has given it back."""
    take_off(seat, task)
    if len(seat.open) + seat.direct < 2:
        leave_behind(state.balancing, seat)
    state.balancing.seats_to_fill[seat] = None


# ---------------------------------------------------------------- placing


def run(state: State) -> None:
    """Do all that has become possible."""
    table = state.balancing
    while True:
        if table.seats_to_fill and not state.paused:
            seats, table.seats_to_fill = table.seats_to_fill, {}
            for seat in seats:
                _fill(state, seat)
        elif table.pools_to_serve and not state.paused:
            _serve(state, table.pools_to_serve.popitem()[0])
        elif table.crews_to_fill and not state.paused:
            gangs.fill(state, table.crews_to_fill.popitem()[0])
        elif table.look_at_gangs and not state.paused:
            gangs.consider(state, state.now)
        elif table.news:
            for job in dependencies.spread(state):
                queue_parked(state, job)
        else:
            return


def _fill(state: State, seat: Seat) -> None:
    """Give an engine as much as it has room for."""
    table = state.balancing
    if table.reserved is not None:
        gangs.claim(state, seat)
    while has_room(table, seat):
        queue = _next_queue(seat)
        if queue is None:
            break
        place(state, queue.pop(), seat)
        if not queue.size:
            for pool in seat.pools:
                if pool.picky:
                    pool.tidy()
    relist(state, seat)


def _next_queue(seat: Seat) -> Queue | None:
    """Return the queue whose turn it is among those that an engine may have tasks of."""
    candidates = []
    for pool in seat.pools:
        if pool.queue.size:
            candidates.append(pool.queue)
        if pool.picky:
            candidates += [
                queue
                for excluded, queue in pool.picky.items()
                if queue.size and seat.number not in excluded
            ]  # fmt: skip
    if len(candidates) > 1:
        return min(candidates, key=Queue.head)
    return candidates[0] if candidates else None


def _serve(state: State, pool: Pool) -> None:
    """Give the tasks of a pool to the engines with room."""
    if pool.picky:
        for excluded, queue in pool.picky.items():
            while queue.size:
                seat = pool.free.pick(excluded)
                if seat is None:
                    break
                place(state, queue.pop(), seat)
                relist(state, seat)
        pool.tidy()
    queue = pool.queue
    pick = pool.free.pick
    while queue.size:
        seat = pick()
        if seat is None:
            return
        place(state, queue.pop(), seat)
        relist(state, seat)


def place(state: State, task: Balanced, seat: Seat) -> None:
    """Send a task, which is out of its queue, to an engine."""
    table = state.balancing
    job = task.job
    function = job.function
    mean = function.mean
    task.state = _OPEN
    task.placed = True
    task.seat = seat
    task.cost = cost = UNKNOWN if mean is None else mean
    table.used += 1
    seat.used = table.used
    opened = seat.open
    if not opened:
        seat.progress = state.now
    opened[task.name] = task
    seat.expected += cost
    if len(opened) + seat.direct > 1 and seat.behind is not job.pool:
        leave_behind(table, seat)
        _put_behind(table, seat, job.pool)
    send(state, task, [seat])


def send(state: State, task: Balanced, seats: list[Seat]) -> None:
    """Send a task to one engine, or to the engines of a gang."""
    job = task.job
    header = job.header
    digest = header.function
    frames: Iterable[object] = ()
    payload = job.common
    count = 0
    if digest:
        for seat in seats:
            if digest not in seat.functions:
                if len(seat.functions) >= MAX_KNOWN:
                    seat.functions.clear()
                seat.functions.add(digest)
                frames = job.function.frames or ()
        if frames:
            payload = [*frames, *job.common]
            count = len(payload) - len(job.common)
    options = header.options
    if header.ranks > 1:
        options = {**options, "gang": True}
    payload = [*payload, *task.part] if task.part else payload
    message = Message(
        Submit(
            task.name, header.client, header.verb, [seat.number for seat in seats], len(payload), [],
            digest, count, options, header.label, header.submitted,
        ),
        payload,
    )  # fmt: skip
    peer = seats[0].crew.world.peer
    assert peer is not None, "a world adrift has no room"
    state.out.append(Send(peer, message))


# ---------------------------------------------------------------- giving back


def requeue(state: State, task: Balanced, event: BalancedEvent) -> None:
    """Queue a task again, before all others, that is on no engine any longer."""
    table = state.balancing
    if task.aborting:
        endings.finish(state, task, BalancedEvent.ABORTED, [endings.aborted(task)])
        return
    task.advance(event)
    task.seat = task.team = None
    task.since = state.now
    if task.part is None:
        table.headless[task.name] = task
        return
    pool = task.job.pool
    assert pool is not None
    if task.excluded and task.job.header.ranks == 1 and pool.hopeless(task.excluded) and not state.paused:
        give_up(state, task, queued=False)
        return
    enqueue(state, task, front=True)
    if task.job.header.timeout is not None:
        endings.set_deadline(state, task, state.now + task.job.header.timeout)


def give_up(state: State, task: Balanced, queued: bool = True) -> None:
    """End a task that no engine may have any more."""
    if not queued:
        enqueue(state, task)  # `finish` takes it out again
    failed = task.failed
    if failed is not None and not is_unmet(failed):
        endings.finish(state, task, BalancedEvent.HOPELESS, [failed])
        return
    tried = ", ".join(map(str, sorted(task.excluded)))
    text = f"Task {task.name}: its dependency was not met on any engine that it may run on (tried: {tried})"
    if failed is not None and failed.header.failure.evalue:  # type: ignore[union-attr]
        text += f"; the last one said: {failed.header.failure.evalue}"  # type: ignore[union-attr]
    endings.fail(state, task, "ImpossibleDependency", text)


def is_unmet(message: Message) -> bool:
    """Return whether a task has said that it cannot run on its engine."""
    failure = getattr(message.header, "failure", None)
    return failure is not None and failure.ename == "UnmetDependency"


def recall(state: State, now: float) -> None:
    """Call back what waits behind long tasks while engines have nothing to do."""
    table = state.balancing
    if state.paused:
        return
    for pool in list(table.hungry):
        while pool.behind and pool.recalls < pool.idle:
            seat = next(iter(pool.behind))
            if seat.progress + PATIENCE > now:
                break
            tasks = list(seat.open.values())[0 if seat.direct else 1 :]
            names = [task.name for task in tasks if task.job.pool is pool and not task.aborting]
            leave_behind(table, seat)
            if not names or seat.recall is not None:
                continue
            seat.closed |= STUCK
            seat.recall = pool
            pool.recalls += 1
            relist(state, seat)
            state.tell(seat.crew.world, Recall(seat.number, names))


def recall_due(state: State) -> float:
    """Return when `recall` has something to do: a time, or infinity."""
    if state.paused:
        return float("inf")
    return min(
        (
            next(iter(pool.behind)).progress + PATIENCE
            for pool in state.balancing.hungry
            if pool.recalls < pool.idle
        ),
        default=float("inf"),
    )


def recalled(seat: Seat) -> None:
    """Note that an engine has answered, or cannot answer any more."""
    if seat.recall is not None:
        seat.recall.recalls -= 1
        seat.recall = None
