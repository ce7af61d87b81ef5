"""Every message of the protocol, as a frozen struct.

The header of a message is one of the structs below; bytes of user objects travel beside it as *payload*
frames, which nobody but the two ends looks into. Engines are named by their global id everywhere; the
bridge of a world alone knows which rank that is.

======================  ==========================================================================
direction               messages
======================  ==========================================================================
client  -> controller   Hello, Submit, Balance, Abort, Signal, Stop, Ask, Claim, Where, Supply, Consumed,
                        Received, Heartbeat, Goodbye
world   -> controller   HelloWorld, Result, Returned, Output, Lacks, Whereabouts, Notice, JobEnds,
                        EnginesLost, Heartbeat, Goodbye
controller -> client    Welcome, Refused, Result, Resend, Output, Lacks, Answer, Notice, JobEnds,
                        EnginesChanged, Heartbeat, Goodbye
controller -> world     WelcomeWorld, Refused, Submit, Recall, Settled, Abort, Signal, Stop, Where, Supply,
                        Consumed, EnginesLost, Heartbeat, Goodbye
======================  ==========================================================================

The bridge hands Submit, Recall, Abort, Signal, Stop, Where, Supply and Consumed on to the ranks they name
as they are. What ranks tell each other about waits (`wire.waits`) names ranks by their place in
the world as it began: a rank keeps its number when others die. JobEnds is for all ranks, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from mpiparallel.wire.balanced import Balance as Balance
from mpiparallel.wire.balanced import Needs as Needs
from mpiparallel.wire.balanced import Recall as Recall
from mpiparallel.wire.balanced import Returned as Returned
from mpiparallel.wire.between import (
    Blocked,
    Broken,
    Complete,
    Completed,
    Cut,
    Drop,
    Examine,
    Held,
    Ledgers,
    Made,
    Release,
    Remains,
    Renew,
    Want,
)
from mpiparallel.wire.delivery import Claim as Claim
from mpiparallel.wire.delivery import Received as Received
from mpiparallel.wire.delivery import Resend as Resend
from mpiparallel.wire.delivery import Settled as Settled
from mpiparallel.wire.fields import (
    Count,
    Digest,
    EngineId,
    Engines,
    Identifier,
    NBytes,
    Option,
    Ranks,
    Text,
)  # fmt: skip
from mpiparallel.wire.fields import Failure as Failure
from mpiparallel.wire.fields import Header as Header
from mpiparallel.wire.waits import Place

Verb = Literal["apply", "map", "execute", "push", "pull", "scatter", "gather", "clear"]
Status = Literal["ok", "error", "aborted"]


class EngineInfo(msgspec.Struct, frozen=True, array_like=True):
    """One engine as clients see it."""

    id: EngineId
    world: Identifier
    rank: Count
    size: Count
    host: Identifier
    pid: Count
    mpi: Text = ""

    @property
    def uuid(self) -> str:
        return f"{self.world}-{self.rank}"


# ---------------------------------------------------------------- meeting and parting


class Hello(Header, frozen=True):
    """A client's first message. `name` is unique to the client and prefixes its request ids."""

    version: Text
    name: Identifier
    host: Identifier
    pid: Count


class HelloWorld(Header, frozen=True):
    """The first message of a world's bridge: one host and pid for each rank, in rank order."""

    version: Text
    name: Identifier
    hosts: Annotated[list[Identifier], Meta(min_length=1, max_length=1 << 20)]
    pids: Annotated[list[Count], Meta(min_length=1, max_length=1 << 20)]
    mpi: Text = ""
    engine_set: Text = ""  # the name under which a Cluster started this world
    first: int = -1  # the engine id that rank 0 would like to have; -1: the next
    log: Text = ""  # path of the file that gets what mpiexec and the ranks say
    survives: bool = False  # whether the others go on when a rank dies (ULFM)
    # Said when it connects again: which ranks have died so far, which requests each rank still has in its
    # queue, runs, or has results of to send, and whose these are (client by request).
    lost: Ranks = []
    held: list[list[Identifier]] | None = None
    owners: dict[str, str] = {}
    # Of a bridge that began as a process of its own and is no engine; it counts as the rank after the last.
    bridge_host: Annotated[str, Meta(max_length=256)] = ""
    bridge_pid: Count = 0
    # The batch job that it is in (`batchjob.BatchJob.name`), and how often that was requeued before.
    job: Annotated[str, Meta(max_length=256)] = ""
    restarts: Count = 0


class Welcome(Header, frozen=True):
    """The controller takes a client; `heartbeat` is the longest silence, in seconds, it likes to hear."""

    version: Text
    cluster_id: Text
    engines: list[EngineInfo]
    heartbeat: float
    instance: Text = ""  # names the controller's process: another one knows nothing of earlier requests


class WelcomeWorld(Header, frozen=True):
    """The controller takes a world; rank r is engine `engines[r]`."""

    version: Text
    cluster_id: Text
    engines: Engines
    heartbeat: float
    instance: Text = ""
    name: Text = ""  # the world's from now on, if it is not the one that it has said: it was here before


class Refused(Header, frozen=True):
    """The controller turns the peer away, or a request of it when `request` is given."""

    reason: Text
    request: str = ""


class Heartbeat(Header, frozen=True):
    """I am here. An answer is asked for by `echo`."""

    echo: bool = False


class Goodbye(Header, frozen=True):
    """The sender leaves, in peace unless `reason` says otherwise."""

    reason: Text = ""


# ---------------------------------------------------------------- work


class Submit(Header, frozen=True):
    """A request: do `verb` on each of `engines`.

    Payload: `common` frames which every engine gets, then ``parts[i]`` frames for ``engines[i]`` alone (when
    `parts` is empty nobody has frames of its own). When `function` is a digest, the first common
    frames are that function's, `function_frames` of them; zero means that the engines should have it.
    The task of engine e is named ``msg_id(request, e)``. `again` marks what a client sends once more because
    it has lost its connection, or was asked to by Resend: what is known of these tasks already counts.
    """

    request: Identifier
    client: Identifier
    verb: Verb
    engines: Engines
    common: Count = 0
    parts: Annotated[list[Count], Meta(max_length=1 << 20)] = []
    function: Digest = b""
    function_frames: Count = 0
    options: dict[str, Option] = {}
    label: Text = ""
    submitted: float | None = None
    again: bool = False


class Result(Header, frozen=True):
    """How the task of `engine` in `request` ended; payload: the pickled value, if there is one.

    Times are seconds since the epoch by the engine's clock. `engine` is NOBODY when a balanced task has ended
    without having been on any; a gang's Results come one after the other, in rank order.
    """

    request: Identifier
    engine: Annotated[int, Meta(ge=-1, lt=1 << 31)]
    status: Status
    started: float | None = None
    completed: float | None = None
    failure: Failure | None = None
    execution_count: int | None = None


class Output(Header, frozen=True):
    """What a task printed or displayed.

    `kind` is ``stdout`` or ``stderr`` (text in `text`), or ``display``, ``execute_input``,
    ``execute_result``, ``clear_output``, ``data`` (a pickled dict as payload). `size` is what it takes of the
    engine's output credit, which the client gives back by `Consumed`. `request` is the last one that ran.
    `number` counts what the engine says, from 1: what is sent again after a loss is known by it. 0: it is not
    counted.
    """

    request: Identifier
    client: Identifier
    engine: EngineId
    kind: Literal["stdout", "stderr", "display", "execute_input", "execute_result", "clear_output", "data"]
    text: str = ""
    size: NBytes = 0
    number: NBytes = 0


class Consumed(Header, frozen=True):
    """The client took `size` bytes of output of `engine`; it may send as many again."""

    engine: EngineId
    size: NBytes


class Lacks(Header, frozen=True):
    """`engine`, or the hub when it is NOBODY, was given a digest of a function that it does not know; the
    task waits for `Supply`.
    """

    client: Identifier
    engine: Annotated[int, Meta(ge=-1, lt=1 << 31)]
    function: Digest


class Supply(Header, frozen=True):
    """The function asked for by `Lacks`, as payload; an empty payload says that it is gone for good."""

    engine: Annotated[int, Meta(ge=-1, lt=1 << 31)]
    function: Digest


# ---------------------------------------------------------------- control lane


class Abort(Header, frozen=True):
    """Take these tasks of `request` out of the queue where they have not begun.

    For a balanced request, from a client, `engines` holds the numbers of the tasks instead.
    """

    request: Identifier
    engines: Engines


class Signal(Header, frozen=True):
    """Deliver a Unix signal to the processes of these engines."""

    engines: Engines
    signum: Annotated[int, Meta(ge=0, le=64)]
    query: Count = 0


class Stop(Header, frozen=True):
    """End these engines. `controller` ends everything."""

    engines: Engines
    controller: bool = False
    query: Count = 0
    reason: Text = ""


class Ask(Header, frozen=True):
    """A question to the hub."""

    query: Count
    what: Literal[
        "queue_status", "result_status", "purge_results", "status", "db_query", "hub_history", "resubmit"
    ]
    engines: Engines = []
    msg_ids: Annotated[list[str], Meta(max_length=1 << 20)] = []
    verbose: bool = False
    # Of db_query: which tasks (key -> value, or operator -> operand), and what of them.
    match: dict[str, Any] = {}
    keys: list[str] | None = None
    newest: Count = 0  # not more than so many; 0: all
    # Of resubmit: the names of the new requests, one for each of `msg_ids`, and when that was.
    requests: Annotated[list[Identifier], Meta(max_length=1 << 20)] = []
    submitted: float | None = None


class Where(Header, frozen=True):
    """What are these engines doing? `query` is the asker's number for it."""

    engines: Engines
    query: Count


class Whereabouts(Header, frozen=True):
    """The answer to Where, of one rank or of a world. Clients get it as an Answer with a list of Places."""

    query: Count
    places: list[Place]


class Notice(Header, frozen=True):
    """Something that a person should know about a request that is under way."""

    client: Identifier
    request: Identifier
    text: Text


class JobEnds(Header, frozen=True):
    """The batch job of a world ends in `left` seconds; None: it has no end, or nobody knows it.

    `why` is to be told to people, now: ``job 123 reaches its time limit``; nobody is told when it is empty.
    The hub puts in the `engines` that it is about.
    """

    left: float | None = None
    why: Text = ""
    engines: Engines = []


class EnginesLost(Header, frozen=True):
    """Ranks of this world have died; the others go on. Who sees it first tells the other."""

    engines: Engines
    reason: Text


class Answer(Header, frozen=True):
    """The answer to Ask, Where, Signal or Stop; `failure` when there is none."""

    query: Count
    value: Any = None
    failure: Failure | None = None


class EnginesChanged(Header, frozen=True):
    """Engines came or went; `reason` says why those in `removed` did."""

    added: list[EngineInfo] = []
    removed: Engines = []
    reason: Text = ""


FromClient = (
    Hello | Submit | Balance | Abort | Signal | Stop | Ask | Claim | Where | Supply | Consumed | Received
    | Heartbeat | Goodbye
)  # fmt: skip
FromWorld = (
    HelloWorld | Result | Returned | Output | Lacks | Whereabouts | Notice | JobEnds | EnginesLost | Heartbeat
    | Goodbye
)
AnyHeader = (
    Hello | HelloWorld | Welcome | WelcomeWorld | Refused | Heartbeat | Goodbye
    | Submit | Result | Output | Consumed | Lacks | Supply
    | Abort | Signal | Stop | Ask | Where | Whereabouts | Answer | Notice | EnginesChanged | EnginesLost
    | JobEnds | Balance | Recall | Returned | Received | Settled | Resend | Claim
    | Blocked | Broken | Renew | Remains | Complete | Completed | Release
    | Examine | Ledgers | Held | Cut | Want | Made | Drop
)  # fmt: skip

NOBODY = -1  # in the place of an engine's id

# These overtake data.
CONTROL = (
    Abort, Signal, Stop, Ask, Where, Whereabouts, Answer, Heartbeat, Refused, Consumed, Notice, EnginesLost,
    JobEnds, Recall, Returned,
    Blocked, Examine, Ledgers, Cut,
)  # fmt: skip


class Message(NamedTuple):
    """A header and its payload: buffers (bytes, memoryview, zmq.Frame, ...) that nobody copies."""

    header: AnyHeader
    payload: Sequence[Any] = ()


class Task(NamedTuple):
    """A Submit on an engine, with the payload for that engine alone."""

    header: Submit
    payload: Sequence[Any]


def msg_id(request: str, engine: int) -> str:
    """Return the id of the task that `request` runs on `engine`."""
    return f"{request}_{engine}"


def split_msg_id(task: str) -> tuple[str, int]:
    """Return request and engine of a task's id.

    Raises
    ------
    ValueError
        If `task` is not the id of a task.
    """
    request, _, engine = task.rpartition("_")
    if not request or not (engine.isascii() and engine.isdigit() and len(engine) <= 10):
        raise ValueError(f"not the id of a task: {task!r}")
    return request, int(engine)
