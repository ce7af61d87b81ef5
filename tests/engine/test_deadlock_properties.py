"""No false alarm: the search for deadlocks against all that could happen to random MPI programs."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mpiparallel.engine.deadlock import Situation, Verdict, analyse, doomed, suspects

from .mpi_model import Model, goes_on
from .mpi_programs import Programs, Writer, change

seeds = st.integers(0, 1 << 32)
many = settings(max_examples=500, deadline=None)


def write(
    rng: random.Random, nonblocking: bool = True, tasks: tuple[str, ...] = ("one", "one", "several", "own")
) -> tuple[Writer, Programs]:
    writer = Writer(rng, rng.randint(2, 4), nonblocking)
    writer.write(rng.randint(1, 7))
    return writer, writer.cut_into_tasks(rng.choice(tasks))


def judge(model: Model) -> list[Verdict]:
    """Return the verdicts of this moment; the first look must have suspected those concerned."""
    situation, ledgers = model.situation(), model.all_ledgers()
    verdicts = analyse(situation, ledgers)
    asked = suspects(situation)
    assert {verdict.rank for verdict in verdicts} <= asked
    if verdicts:
        assert analyse(situation, {rank: ledgers[rank] for rank in asked}) == verdicts
    return verdicts


def step(model: Model, rng: random.Random) -> bool:
    moves = model.moves()
    if moves:
        model.do(rng.choice(moves))
    return bool(moves)


@many
@given(seeds)
def test_a_correct_program_is_never_judged_at_any_moment(seed: int) -> None:
    rng = random.Random(seed)
    writer, programs = write(rng)
    model = Model(
        programs,
        writer.comms,
        strict=rng.random() < 0.5,
        told=rng.random() < 0.5,
        attentive=rng.random() < 0.5,
    )
    while step(model, rng):
        situation, ledgers = model.situation(), model.all_ledgers()
        assert analyse(situation, ledgers) == [], programs
        assert doomed(situation, ledgers) == [], programs
    assert all(rank.over for rank in model.ranks), programs


@many
@given(seeds)
def test_whoever_is_said_to_be_stuck_never_goes_on(seed: int) -> None:
    rng = random.Random(seed)
    writer, programs = write(rng)
    for _ in range(rng.randint(1, 2)):
        change(rng, programs, writer.comms)
    model = Model(
        programs,
        writer.comms,
        strict=rng.random() < 0.3,
        told=rng.random() < 0.5,
        attentive=rng.random() < 0.5,
    )
    known: set[int] = set()
    while step(model, rng):
        stuck = {verdict.rank for verdict in judge(model)}
        if stuck - known:
            assert goes_on(model, stuck) is None, (programs, stuck)
        known |= stuck


@many
@given(seeds)
def test_ranks_may_be_asked_one_after_the_other(seed: int) -> None:
    """Ledgers of different moments, with a program that runs on in between."""
    rng = random.Random(seed)
    writer, programs = write(rng)
    if rng.random() < 0.8:
        change(rng, programs, writer.comms)
    model = Model(programs, writer.comms, attentive=rng.random() < 0.5)
    for _ in range(rng.randint(0, 40)):
        step(model, rng)
    while True:
        requests, states, ledgers = model.requests_state(), {}, {}
        model.left = set()
        for rank in rng.sample(range(len(model.ranks)), len(model.ranks)):
            states[rank], ledgers[rank] = model.state(rank), model.ledgers(rank)
            for _ in range(rng.choice((0, 0, 1, 3, 8))):
                step(model, rng)
        for verdict in analyse(Situation(states, requests), ledgers):
            wait, now = states[verdict.rank].wait, model.state(verdict.rank).wait
            assert wait is not None and now is not None, programs
            assert wait.number == now.number, programs
            assert goes_on(model, [verdict.rank], 200) is None, programs
        if not step(model, rng):
            break


@many
@given(seeds)
def test_a_standstill_is_found_whole_and_ended(seed: int) -> None:
    """Without non-blocking calls, and with collectives that need only their data, all of it is found."""
    rng = random.Random(seed)
    writer, programs = write(rng, nonblocking=False, tasks=("one",))
    for _ in range(rng.randint(1, 2)):
        change(rng, programs, writer.comms, sizes=False)
    model = Model(programs, writer.comms, remembered=100)
    rounds = 0
    while True:
        while step(model, rng):
            pass
        blocked = model.blocked()
        if not blocked:
            break
        verdicts = judge(model)
        assert verdicts, (programs, blocked)
        deadlocked = {verdict.rank for verdict in verdicts if verdict.cause is None}
        assert deadlocked in (set(), blocked), (programs, blocked)
        assert deadlocked == set() or all(verdict.reasons for verdict in verdicts), programs
        for verdict in verdicts:
            if verdict.cause is not None:
                assert model.ended["q0"][verdict.cause] != "ok"
            model.cut(verdict.rank, "DeadlockError: ...")
        rounds += 1
    assert rounds <= len(model.ranks)
    assert all(rank.over for rank in model.ranks)


@many
@given(seeds)
def test_a_standstill_of_several_requests_is_ended_too(seed: int) -> None:
    rng = random.Random(seed)
    writer, programs = write(rng, nonblocking=False, tasks=("several", "own"))
    for _ in range(rng.randint(1, 2)):
        change(rng, programs, writer.comms, sizes=False)
    model = Model(programs, writer.comms, remembered=100)
    while True:
        while step(model, rng):
            pass
        blocked = model.blocked()
        situation = model.situation()
        # Who is idle and never was part of a request may be sent a task that helps.
        helpers = [
            rank
            for rank, state in situation.ranks.items()
            if state.doing == "idle"
            and any(rank not in request.ranks for request in situation.requests.values())
        ]
        if not blocked or helpers:
            break
        verdicts = judge(model)
        assert verdicts, (programs, blocked)
        for verdict in verdicts:
            model.cut(verdict.rank, "DeadlockError: ...")
