"""Results for those who ask for them by msg_id, and all that needs the store to be answered.

Called by `hub`. What is in the store can only be read elsewhere: an `Errand` goes out with a function that
reads, and when it is back another goes on with what was found. Who claims an open task follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from mpiparallel.controller import answers
from mpiparallel.controller.lives import TaskState
from mpiparallel.controller.records import Printed, Record
from mpiparallel.controller.state import Client, Errand, Kept, State
from mpiparallel.wire.messages import (
    NOBODY,
    Answer,
    Ask,
    Balance,
    Claim,
    Failure,
    Message,
    Output,
    Result,
    msg_id,
    split_msg_id,
)

if TYPE_CHECKING:
    from mpiparallel.controller.store import Reader

CLIENTS_BACK = 3.0  # seconds in which clients find a controller that was started again
MAX_OPEN = 100_000  # open tasks that a query looks at, the newest


@dataclass(eq=False)
class Claimed:
    """A claim under way: once its answer is out, output and Results go straight to the client."""

    client: str
    answered: bool = False
    held: list[Message] = field(default_factory=list)


def claim(state: State, client: Client, message: Message) -> None:
    """Answer with what is known of tasks; send the Results of those done, and those of the others later."""
    header: Claim = message.header  # type: ignore[assignment]
    mine = Claimed(client.name)
    opened: dict[str, dict[str, Any]] = {}
    rest: list[str] = []
    for task in dict.fromkeys(header.tasks):
        about = open_task(state, task)
        if about is None:
            rest.append(task)
        else:
            opened[task] = metadata(about)
            _follow(state, task, mine)
    # What comes after this moment is held back, and perhaps in the store, too, when that is asked.
    printed = {task: tuple(state.printed[task]) for task in opened if task in state.printed}

    def read(reader: Reader) -> tuple[dict[str, Any], dict[str, list[Message] | None], dict[str, list[str]]]:
        about = reader.metadata(rest)
        texts = {task: list(reader.texts(task)) for task in printed}
        return about, {task: reader.results(task) for task in about}, texts

    def then(state: State, client: Client, found: Any) -> None:
        about, results, texts = found
        for task, (out, err) in printed.items():
            opened[task].update(stdout=texts[task][0][:out], stderr=texts[task][1][:err])
        for task in rest:
            late = open_task(state, task)  # it has come while the store was asked, or is there as an open one
            if late is not None:
                opened[task] = metadata(late)
                _follow(state, task, mine)
                about.pop(task, None)
                results.pop(task, None)
        ended = {task: one for task, one in about.items() if one["status"] is not None}
        unknown = [task for task in rest if task not in ended and task not in opened]
        if unknown and (state.paused or state.now < state.settled_at):
            # A world or a client that is not back yet may have them.
            for task in opened:
                _leave(state, task, mine)
            state.postponed.append((client.name, message))
            return
        state.send(client.peer, Answer(header.query, {"unknown": unknown, "tasks": {**opened, **ended}}))
        mine.answered = True
        for task, one_ended in ended.items():
            for one in results[task] or [_not_kept(task, one_ended)]:
                hand(state, client.name, one)
        for one in mine.held:
            if isinstance(one.header, Output):
                state.send(client.peer, *one)
            else:
                hand(state, client.name, one)
        mine.held = []

    state.errands.append(Errand(client.name, header.query, read, then))


def resume(state: State) -> None:
    """Take up the claims that have waited for others to be back."""
    postponed, state.postponed = state.postponed, []
    for name, message in postponed:
        client = state.clients.get(name)
        if client is not None:  # else it asks once more when it is back
            claim(state, client, message)


def _follow(state: State, task: str, mine: Claimed) -> None:
    state.followers.setdefault(task, []).append(mine)


def _leave(state: State, task: str, mine: Claimed) -> None:
    rest = [one for one in state.followers.get(task, ()) if one is not mine]
    if rest:
        state.followers[task] = rest
    else:
        state.followers.pop(task, None)


def hand(state: State, name: str, message: Message) -> None:
    """Send a copy of a Result to a client."""
    client = state.client(name)
    if client is not None:
        client.unreceived.append(Kept(message, ""))
        if client.peer is not None:
            state.send(client.peer, *message)


def follow_up(state: State) -> None:
    """Give those who follow tasks that have ended since the last look their Results."""
    journal = state.journal
    for entry in journal[state.looked :]:
        if type(entry) is not Record or entry.status is None:
            continue
        for mine in state.followers.pop(entry.task, ()):
            if mine.answered:
                for message in entry.results:
                    hand(state, mine.client, message)
            else:
                mine.held += entry.results
    state.looked = len(journal)


def printed(state: State, header: Output) -> None:
    """Keep what a task prints whose client is gone."""
    if state.storing and header.kind in ("stdout", "stderr"):
        direct = header.request in state.requests
        task = msg_id(header.request, header.engine) if direct else header.request
        state.journal.append(Printed(task, header.kind, header.text))
        state.printed.setdefault(task, [0, 0])[header.kind == "stderr"] += len(header.text)
        message = Message(msgspec.structs.replace(header, size=0, number=0))
        for mine in state.followers.get(task, ()):
            client = state.clients.get(mine.client)
            if not mine.answered:
                mine.held.append(message)
            elif client is not None:
                state.send(client.peer, *message)


def _not_kept(task: str, about: dict[str, Any]) -> Message:
    if about["ename"]:
        failure = Failure(about["ename"], about["evalue"], about["traceback"])
    else:
        why = f"Task {task} has ended ({about['status']}), but what it returned is not kept any more"
        failure = Failure("ResultNotKept", why)
    if about["ranks"]:
        return Message(Result(task, NOBODY, "error", failure=failure))
    return Message(Result(*split_msg_id(task), "error", failure=failure))


# ---------------------------------------------------------------- open tasks


def open_task(state: State, task: str) -> Record | None:
    """Return what is known of a task that has not ended; None if there is no such."""
    balanced = state.balanced.get(task)
    if balanced is not None:
        header = balanced.job.header
        return Record(
            task, header.client, header.verb, header.label, header.submitted, header.ranks, [], None, None,
            None,
        )  # fmt: skip
    try:
        name, engine = split_msg_id(task)
    except ValueError:
        return None
    request = state.requests.get(name)
    if request is None or request.tasks.get(engine) is not TaskState.OPEN:
        return None
    found = state.engines.get(engine)
    return Record(
        task, request.client, request.verb, request.label, request.submitted, 0, [engine], None, None, None,
        uuid=found.info.uuid if found else "",
    )  # fmt: skip


def open_tasks(state: State) -> list[Record]:
    """Return the newest open tasks, at most `MAX_OPEN`."""
    names = [*state.balanced][-MAX_OPEN:]
    names += [
        msg_id(request.name, engine)
        for request in [*state.requests.values()][-MAX_OPEN:]
        for engine in request.tasks
    ]
    found = (open_task(state, name) for name in names[-MAX_OPEN:])
    return [record for record in found if record is not None]


def metadata(record: Record) -> dict[str, Any]:
    """Return what clients are told of an open task; of those that have ended the database says it."""
    return {
        "msg_id": record.task, "client_uuid": record.client, "verb": record.verb, "label": record.label,
        "submitted": record.submitted, "ranks": record.ranks, "status": None, "engine_uuid": record.uuid,
        "engine_id": record.engines[0] if record.engines else None,
    }  # fmt: skip


# ---------------------------------------------------------------- questions to the store


def db_query(state: State, client: Client, question: Ask) -> None:
    """Answer with the tasks that a query finds, open ones among them."""
    opened = open_tasks(state)
    match, keys, newest = question.match, question.keys, question.newest or None
    _ask(state, client, question, lambda reader: reader.search(match, keys, newest, opened))


def hub_history(state: State, client: Client, question: Ask) -> None:
    """Answer with all tasks, in the order of submission."""
    opened = [(record.submitted or 0.0, record.task) for record in open_tasks(state)]
    _ask(state, client, question, lambda reader: reader.history(opened))


def result_status(state: State, client: Client, question: Ask) -> None:
    """Answer which of these tasks are open and which have ended; one that nobody knows is a KeyError."""
    pending = {task for task in question.msg_ids if open_task(state, task) is not None}

    def read(reader: Reader) -> dict[str, list[str]]:
        rest = [task for task in question.msg_ids if task not in pending]
        known = reader.metadata(rest)
        _check_known(rest, known)
        waiting = {task for task in rest if known[task]["status"] is None} | pending
        return {
            "pending": [task for task in question.msg_ids if task in waiting],
            "completed": [task for task in rest if task not in waiting],
        }

    _ask(state, client, question, read)


def purge_results(state: State, client: Client, question: Ask) -> None:
    """Forget finished tasks; those that are open, or forgotten already, are passed over."""
    answers.answer(state, question)
    _ask(state, client, question, lambda reader: reader.purge(question.msg_ids, question.engines))


def resubmit(state: State, client: Client, question: Ask) -> None:
    """Have balanced tasks done once more: task 0 of each of ``question.requests``."""
    for task in question.msg_ids:
        if open_task(state, task) is not None:
            why = f"task {task!r} is still under way: wait for it, or abort it"
            state.send(client.peer, Answer(question.query, failure=Failure("ValueError", why)))
            return

    def read(reader: Reader) -> list[tuple[dict[str, Any], Message]]:
        known = reader.metadata(question.msg_ids)
        _check_known(question.msg_ids, known)
        return [(known[task], _inputs(reader, known[task])) for task in question.msg_ids]

    def then(state: State, client: Client, found: Any) -> list[Message]:
        state.send(client.peer, Answer(question.query, [about for about, _ in found]))
        # Their client has no inputs that it could send again: the store keeps them.
        state.unsaved.update(dict.fromkeys(msg_id(request, 0) for request in question.requests))
        return [
            _once_more(client, request, inputs, question.submitted)
            for request, (_, inputs) in zip(question.requests, found, strict=True)
        ]

    state.errands.append(Errand(client.name, question.query, read, then))


def _inputs(reader: Reader, about: dict[str, Any]) -> Message:
    task = about["msg_id"]
    inputs = reader.inputs(task)
    if inputs is not None:
        return inputs
    if not about["ranks"]:
        raise ValueError(
            f"task {task!r} was for engine {about['engine_id']} alone: only tasks of a load-balanced view "
            "can be resubmitted"
        )
    raise ValueError(f"the arguments of task {task!r} are not kept any more: submit it anew")


def _once_more(client: Client, request: str, inputs: Message, submitted: float | None) -> Message:
    header = inputs.header
    assert isinstance(header, Balance)
    header = msgspec.structs.replace(
        header, request=request, client=client.name, first=0, after=None, follow=None, submitted=submitted,
        again=False,
    )  # fmt: skip
    return Message(header, inputs.payload)


def _check_known(tasks: Sequence[str], known: dict[str, Any]) -> None:
    for task in tasks:
        if task not in known:
            raise KeyError(f"no such task: {task!r}")


def _ask(state: State, client: Client, question: Ask, read: Callable[[Reader], Any]) -> None:
    def then(state: State, client: Client, value: Any) -> None:
        state.send(client.peer, Answer(question.query, value))

    state.errands.append(Errand(client.name, question.query, read, then))


ANSWERS: dict[str, Callable[[State, Client, Ask], None]] = {
    "db_query": db_query,
    "hub_history": hub_history,
    "result_status": result_status,
    "purge_results": purge_results,
    "resubmit": resubmit,
}


def found(
    state: State, errand: Errand, value: Any, error: Exception | None
) -> tuple[Client, list[Message]] | None:
    """Go on with an errand that is back; return what its client is to have said now, if anything."""
    client = state.clients.get(errand.client)
    if client is None:
        return None  # who comes back asks once more
    if error is None:
        return client, errand.then(state, client, value) or []
    text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    state.send(client.peer, Answer(errand.query, failure=Failure(type(error).__name__, text)))
    return None
