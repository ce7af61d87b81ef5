"""Answers to the questions that clients put to the hub.

Called by `hub`. Questions are rare, so that these functions may look through tables of tasks; nothing else
in the hub does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpiparallel.controller.lives import BalancedState, TaskState
from mpiparallel.controller.state import State
from mpiparallel.wire.messages import Answer, Ask, Failure, msg_id, split_msg_id


def answer(state: State, question: Ask) -> Answer:
    """Return the answer to `question`; one that cannot be answered says why."""
    try:
        return Answer(question.query, _ANSWERS[question.what](state, question))
    except KeyError as error:
        return Answer(question.query, failure=Failure("KeyError", str(error.args[0])))


def _queue_status(state: State, question: Ask) -> dict[str, Any]:
    numbers = question.engines or list(state.engines)
    for number in numbers:
        if number not in state.engines:
            raise KeyError(f"there is no engine {number}")
    finished = _finished_of(state, set(numbers)) if question.verbose else {}
    status: dict[str, Any] = {}
    for number in numbers:
        engine = state.engines[number]
        balanced = state.balancing.seats[number].open
        if question.verbose:
            queue = [msg_id(name, number) for name in engine.open]
            status[str(number)] = {"queue": queue, "completed": finished[number], "tasks": list(balanced)}
        else:
            status[str(number)] = {
                "queue": len(engine.open), "completed": engine.completed, "tasks": len(balanced)
            }  # fmt: skip
    waiting = [name for name, task in state.balanced.items() if task.state is not BalancedState.OPEN]
    status["unassigned"] = waiting if question.verbose else len(waiting)
    return status


def _finished_of(state: State, numbers: set[int]) -> dict[int, list[str]]:
    finished: dict[int, list[str]] = {number: [] for number in numbers}
    for request in [*state.finished, *state.requests.values()]:
        for number, task in request.tasks.items():
            if number in numbers and task is not TaskState.OPEN:
                finished[number].append(msg_id(request.name, number))
    for name, (_, engines) in state.balancing.ended.items():
        for number in numbers.intersection(engines):
            finished[number].append(name)
    return finished


def _result_status(state: State, question: Ask) -> dict[str, list[str]]:
    status: dict[str, list[str]] = {"pending": [], "completed": []}
    for task in question.msg_ids:
        if task in state.balanced or task in state.balancing.ended:
            status["pending" if task in state.balanced else "completed"].append(task)
            continue
        found = _state_of(state, task)
        if found is None:
            raise KeyError(f"no such task: {task!r}")
        status["pending" if found is TaskState.OPEN else "completed"].append(task)
    return status


def _state_of(state: State, task: str) -> TaskState | None:
    try:
        name, engine = split_msg_id(task)
    except ValueError:
        return None
    request = state.requests.get(name) or state.finished.get(name)
    return request.tasks.get(engine) if request else None


def _purge_results(state: State, question: Ask) -> None:
    """Forget finished tasks; those that are open, or forgotten already, are passed over."""
    if question.msg_ids == ["all"]:
        state.finished.clear()
        state.balancing.ended.clear()
        return
    for task in question.msg_ids:
        try:
            name, engine = split_msg_id(task)
        except ValueError:
            raise KeyError(f"no such task: {task!r}") from None
        state.balancing.ended.pop(task, None)
        state.finished.forget(name, engine)
    for request in list(state.finished) if question.engines else ():
        for engine in question.engines:
            state.finished.forget(request.name, engine)
    for task, (_, engines) in list(state.balancing.ended.items()) if question.engines else ():
        if set(engines).intersection(question.engines):
            del state.balancing.ended[task]


def _status(state: State, _question: Ask) -> dict[str, Any]:
    worlds = [
        {
            "name": world.name,
            "engine_set": world.hello.engine_set,
            "engines": list(world.engines),
            "hosts": [engine.info.host for engine in world.engines.values()],
            "mpi": world.hello.mpi,
            "job": world.hello.job,
            "time_left": None if world.ends_at is None else world.ends_at - state.now,
        }
        for world in state.worlds.values()
    ]
    return {
        **state.about,
        "cluster_id": state.cluster_id,
        "worlds": worlds,
        "lost": dict(state.lost),
        "clients": len(state.clients),
        "open_requests": len(state.requests),
        "open_tasks": len(state.balanced),
        "counters": dict(state.counters),
    }


_ANSWERS: dict[str, Callable[[State, Ask], Any]] = {
    "queue_status": _queue_status,
    "result_status": _result_status,
    "purge_results": _purge_results,
    "status": _status,
}
