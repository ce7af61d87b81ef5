"""Balanced tasks whose clients are gone: the store has them, too, until they have ended.

A client that is there sends its tasks again to a controller that was started anew; these have nobody else who
could. Called by `clients`, `hub` and `worlds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import msgspec

from mpiparallel.controller import balance, endings
from mpiparallel.controller.records import Departed, Record
from mpiparallel.controller.state import State
from mpiparallel.wire.messages import Balance, Message, msg_id

BATCH = 2000  # tasks written down at a time: others are not to wait for all those of a client


def leave(state: State, client: str) -> None:
    """Note the tasks of a client that is gone, or away: `write` gives them to the store."""
    if state.storing:
        for name, task in state.balanced.items():
            if task.job.header.client == client and not task.saved:
                state.unsaved[name] = None


def write(state: State) -> None:
    """Tell the store of some of these tasks, unless they have ended meanwhile."""
    for name in list(islice(state.unsaved, BATCH)):
        del state.unsaved[name]
        task = state.balanced.get(name)
        if task is None or task.job.function.frames is None:
            continue
        inputs = endings.inputs(task)
        if inputs is None:
            continue  # it is on an engine, and an earlier run of the controller had its payload
        header: Balance = inputs.header  # type: ignore[assignment]
        again = msgspec.structs.replace(header, retries=task.retries)
        task.saved = True
        state.journal.append(
            Record(
                name, header.client, header.verb, header.label, header.submitted, header.ranks, [], None,
                None, None, inputs=Message(again, inputs.payload),
            )
        )  # fmt: skip


def restore(
    state: State,
    waiting: Iterable[Message],
    ended: Mapping[str, tuple[bool, tuple[int, ...]]],
    now: float,
) -> None:
    """Queue tasks that an earlier run of the controller has left in the store.

    Those that come after others have to wait for the worlds, which may have these. What engines have already
    is found there, and left to them, when their worlds are back.
    """
    state.balancing.ended.update(ended)
    gone = set()
    for message in waiting:
        header: Balance = message.header  # type: ignore[assignment]
        gone.add(header.client)
        if header.after is not None or header.follow is not None:
            state.restored.append(message)
        else:
            _take_in(state, message, now)
    state.journal.extend(map(Departed, sorted(gone)))
    if not state.paused:
        resume(state, now)


def resume(state: State, now: float) -> None:
    """Queue those that come after others: all that worlds have of these is known now."""
    restored, state.restored = state.restored, []
    for message in restored:
        _take_in(state, message, now)


def _take_in(state: State, message: Message, now: float) -> None:
    header: Balance = message.header  # type: ignore[assignment]
    name = msg_id(header.request, header.first)
    known = state.balanced.get(name)
    if name in state.balancing.ended or (known is not None and known.part is not None):
        return  # its result has come, or its client, before
    balance.take_in(state, Message(msgspec.structs.replace(header, again=True), message.payload), now)
    task = state.balanced.get(name)
    if task is not None:
        task.saved = True


def abandon(state: State, reason: str) -> None:
    """End the tasks of clients that are gone: the controller ends, and nobody will run them."""
    for name, task in list(state.balanced.items()):
        if task.saved and state.clients.get(task.job.header.client) is None:
            why = f"Task {name} has not been run: the controller has ended ({reason})"
            endings.fail(state, task, "EngineError", why)
