"""The tables of lives: what may follow what, and that nothing else may."""

from __future__ import annotations

from enum import Enum
from itertools import product

import pytest

from mpiparallel.controller import lives
from mpiparallel.controller.lives import (
    BALANCED,
    ENGINE,
    TASK,
    WORLD,
    BalancedEvent,
    BalancedState,
    EngineEvent,
    EngineState,
    TaskEvent,
    TaskState,
    TransitionError,
    Word,
    WorldEvent,
    WorldState,
    advance,
)

LIVES = [
    (TASK, TaskState, TaskEvent),
    (BALANCED, BalancedState, BalancedEvent),
    (ENGINE, EngineState, EngineEvent),
    (WORLD, WorldState, WorldEvent),
]
NAMES = ["task", "balanced", "engine", "world"]


@pytest.mark.parametrize(("table", "states", "events"), LIVES, ids=NAMES)
def test_every_pair_is_a_transition_or_an_error_naming_both(table, states, events) -> None:
    for state, event in product(states, events):
        if (state, event) in table:
            assert advance(table, state, event) is table[state, event]
        else:
            with pytest.raises(TransitionError, match=rf"{state.name}: .*{event.name}"):
                advance(table, state, event)


@pytest.mark.parametrize(("table", "states", "events"), LIVES, ids=NAMES)
def test_every_state_can_be_reached_and_every_event_is_used(table, states, events) -> None:
    reached = {next(iter(states))}
    while True:
        more = reached | {after for (before, _), after in table.items() if before in reached}
        if more == reached:
            break
        reached = more
    assert reached == set(states)
    assert {event for _, event in table} == set(events)


@pytest.mark.parametrize("end", [TaskState.OK, TaskState.ERROR, TaskState.ABORTED, TaskState.LOST])
def test_a_task_ends_once(end: TaskState) -> None:
    for event in TaskEvent:
        with pytest.raises(TransitionError):
            advance(TASK, end, event)


@pytest.mark.parametrize(
    "end", [BalancedState.OK, BalancedState.ERROR, BalancedState.ABORTED, BalancedState.LOST]
)
def test_a_balanced_task_ends_once(end: BalancedState) -> None:
    for event in BalancedEvent:
        with pytest.raises(TransitionError):
            advance(BALANCED, end, event)


def test_an_event_of_another_life_is_an_error() -> None:
    with pytest.raises(TransitionError, match=r"TaskState OPEN: .*WorldEvent LEFT"):
        advance(TASK, TaskState.OPEN, WorldEvent.LEFT)  # type: ignore[type-var]


def test_all_enums_are_covered_here() -> None:
    enums = {value for value in vars(lives).values() if isinstance(value, type) and issubclass(value, Enum)}
    assert enums - {Enum, Word} == {kind for _, states, events in LIVES for kind in (states, events)}
