"""Views of work for which the hub chooses the engines."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mpiparallel.client import partition, waiting
from mpiparallel.client import progress as bars
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.balancedmap import BalancedMapResult
from mpiparallel.client.chunks import Chunks
from mpiparallel.client.dependency import Dependency, as_dependency
from mpiparallel.client.lazymap import LazyMapIterator
from mpiparallel.client.mapresult import AsyncMapResult
from mpiparallel.client.tasks import Task
from mpiparallel.client.view_base import View, dump_function, name_of
from mpiparallel.wire import objects
from mpiparallel.wire.fields import MOST

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

_DIRECT_ONLY = frozenset(
    [
        "activate", "clear", "execute", "gather", "get", "importer", "pull", "push", "run", "scatter",
        "sync_imports", "update",
    ]
)  # fmt: skip


class LoadBalancedView(View):
    """Work for whichever engines are free: each call runs once, on an engine that the controller chooses.

    >>> lview = rc.load_balanced_view()  # doctest: +SKIP
    >>> lview.map_sync(pow, range(5), [2] * 5)  # doctest: +SKIP
    [0, 1, 4, 9, 16]

    Attributes
    ----------
    targets
        The engines that may be chosen; None: all there are, those that come later included.
    retries : int
        How often a task that fails is run again, each time on an engine on which it has not failed yet.
    timeout : float or None
        Seconds that a task may wait for an engine before it ends with `TaskTimeout`.
    after
        Tasks that must have ended before: msg_ids, AsyncResults or a `Dependency`.
    follow
        The same, and the task runs on an engine where one of them (`Dependency.all`: all of them) ran.
    ranks : int
        On how many ranks of one world a task runs at once; ``mpiparallel.current_comm()`` is their
        communicator. The result of a task on several ranks is the list of their values, in rank order.
    block, track, label
        As for every view.
    """

    _flag_names = ("targets", "block", "track", "label", "follow", "after", "timeout", "retries", "ranks")
    _retries: int = 0
    _timeout: float | None = None
    _ranks: int = 1
    _after: Dependency | None = None
    _follow: Dependency | None = None

    def __init__(self, client: Client, targets: Any = None, **flags: Any) -> None:
        super().__init__(client, targets, **flags)

    def __getattr__(self, name: str) -> Any:
        if name in _DIRECT_ONLY:
            raise AttributeError(
                f"a LoadBalancedView has no {name}: its tasks may run anywhere, so there is no engine whose "
                f"namespace this would be. Use a direct view, client[:].{name}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ------------------------------------------------------------ flags

    @property
    def retries(self) -> int:
        """How often a task that fails is run again."""
        return self._retries

    @retries.setter
    def retries(self, value: int) -> None:
        self._retries = _whole(value, "retries", 0)

    @property
    def ranks(self) -> int:
        """On how many ranks of one world a task runs at once."""
        return self._ranks

    @ranks.setter
    def ranks(self, value: int) -> None:
        self._ranks = _whole(value, "ranks", 1)

    @property
    def timeout(self) -> float | None:
        """Seconds that a task may wait for an engine."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: float | None) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise TypeError(f"timeout is a number of seconds or None, not {value!r}")
        if value is not None and (value < 0 or math.isnan(value)):
            raise ValueError(f"timeout must not be negative: {value}")
        self._timeout = None if value is None else float(value)

    @property
    def after(self) -> Dependency | None:
        """Tasks that must have ended before."""
        return self._after

    @after.setter
    def after(self, value: Any) -> None:
        self._after = as_dependency(value)

    @property
    def follow(self) -> Dependency | None:
        """Tasks on whose engines these run, after them."""
        return self._follow

    @follow.setter
    def follow(self, value: Any) -> None:
        self._follow = as_dependency(value)

    def _engines(self) -> list[int]:
        """Return the engines that may be chosen now.

        Raises
        ------
        NoEnginesRegistered
            If there are none.
        """
        return self.client._engine_ids(self.targets)

    def _present(self) -> list[int]:
        """Return those of the engines that may be chosen which are there."""
        targets = [self.targets] if isinstance(self.targets, int) else self.targets
        there = list(self.client._connection.engines)
        return [engine for engine in there if engine in targets] if isinstance(targets, list) else there

    def _snapshot(self) -> LoadBalancedView:
        """Return a view with the flags of this moment, for requests that are sent bit by bit."""
        return copy.copy(self)

    # ------------------------------------------------------------ submitting

    def _balance(
        self, verb: str, parts: Sequence[Sequence[Any]], *, block: bool = False, **request: Any
    ) -> list[Task]:
        """Send tasks of this view; the hub places them. Data is copied unless the caller waits for it."""
        if not block and not self.track:
            parts = [objects.copied(part) for part in parts]
        request.setdefault("label", self.label)
        tasks = self.client._connection.balance(
            verb, parts,
            owner=self._token, ranks=self._ranks, retries=self._retries, timeout=self._timeout,
            targets=() if self.targets is None else self._engines(), track=self.track,
            after=None if self._after is None else self._after.needs(self.client._connection.tasks),
            follow=None if self._follow is None else self._follow.needs(),
            **request,
        )  # fmt: skip
        return self._note(tasks)

    def _apply(
        self,
        f: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        targets: Any = None,
        block: bool | None = None,
        track: bool | None = None,
        kind: type[AsyncResult] = AsyncResult,
    ) -> Any:
        self._engines()
        block = self._blocks(block)
        tasks = self._balance(
            "apply", [objects.dumps((tuple(args), kwargs))], block=block, function=dump_function(f)
        )
        return self._finish(kind(self.client, tasks, name_of(f), single=True), block)

    # ------------------------------------------------------------ map

    def map(
        self,
        f: Any,
        *sequences: Any,
        block: bool | None = None,
        chunksize: int = 1,
        ordered: bool = True,
        return_exceptions: bool = False,
        label: str | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Call `f` on the items of the sequences, `chunksize` of them in a task; return the values in order.

        Sequences with a length (lists, ranges, arrays) are read as they are sent: of a long map only so much
        is under way as keeps the engines busy. Ctrl-C in a map that blocks takes what has not begun out of
        the queues, and raises KeyboardInterrupt; what runs on engines goes on.

        Parameters
        ----------
        f
            The function, or a Reference to one.
        *sequences
            As for Python's ``map``: the shortest counts. Generators are listed.
        block, label
            Instead of the view's own.
        chunksize
            How many items a task has: more for short calls.
        ordered
            False: iterating over the AsyncMapResult gives items in the order of their arrival.
        return_exceptions
            Return errors in the places of values instead of raising. Of gangs, an error stands in
            the places of all items of its chunk.
        progress
            Whether a map that blocks shows a progress bar; None: in IPython, when it takes more than two
            seconds. Of others, `AsyncResult.wait_interactive` shows one.
        """
        assert sequences, "must have some sequences to map onto!"
        chunksize = _whole(chunksize, "chunksize", 1)
        self._engines()
        block = self._blocks(block)
        source = Chunks([partition.listed(sequence) for sequence in sequences], chunksize)
        if not len(source):
            return self._finish(AsyncMapResult(self.client, [], name_of(f)), block)
        result = BalancedMapResult(
            self, f, source, ordered=ordered, return_exceptions=return_exceptions,
            label=self.label if label is None else label,
        )  # fmt: skip
        if block:
            with bars.following(result, progress):
                return result.feed_and_get()
        result.feed_in_background()
        return result

    def _map(
        self, f: Any, sequences: Sequence[Any], dist: str, *, ordered: bool = True, label: str | None = None
    ) -> Any:
        """Do what ``ParallelFunction.map`` asks for: the cutting is ours to choose."""
        return self.map(f, *sequences, ordered=ordered, label=label)

    def _apply_parts(self, f: Any, sequences: Sequence[Any], dist: str, *, ordered: bool) -> Any:
        """Call `f` with parts of the sequences, one for each engine there is, and join what comes back."""
        engines = self._engines()
        block = self._blocks(None)
        count = max(1, min(len(engines) // self._ranks, len(sequences[0])))
        cut = [partition.partition(sequence, count, dist) for sequence in sequences]
        chunks = list(zip(*cut, strict=True))
        tasks = self._balance(
            "apply", [objects.dumps((chunk, {})) for chunk in chunks], block=block, function=dump_function(f)
        )
        result = AsyncMapResult(
            self.client, tasks, name_of(f), dist=dist, ordered=ordered, itemwise=False,
            sizes=[len(chunk[0]) for chunk in chunks],
        )  # fmt: skip
        return self._finish(result, block)

    def imap(
        self,
        f: Any,
        *sequences: Any,
        ordered: bool = True,
        max_outstanding: int | str = "auto",
        return_exceptions: bool = False,
        progress: bool = False,
        total: int | None = None,
    ) -> LazyMapIterator:
        """Return an iterator over the values of `f`; the sequences may be infinite.

        They are read as results are taken from the iterator, in the thread that takes them. An error of
        theirs is raised after the values of what came before it. When the iterator is closed, or nobody
        holds it any more, tasks that have not begun are taken out of the queues.

        Parameters
        ----------
        f
            The function, or a Reference to one.
        *sequences
            Any iterables; the shortest counts.
        ordered
            False: give values in the order of their arrival.
        max_outstanding
            How many tasks are under way at most. ``"auto"``: two for each engine, and more when they are
            short; 0: all of the sequences at once, which then must be finite.
        return_exceptions
            Return errors in the places of values instead of raising.
        progress
            Whether to show a progress bar, which counts the values that have been taken.
        total
            How many there will be, for the bar; by default the shortest length there is.
        """
        assert sequences, "must have some sequences to map onto!"
        if total is None:
            total = partition.shortest(sequences)
        if max_outstanding != "auto":
            max_outstanding = _whole(max_outstanding, "max_outstanding", 0)
        self._engines()
        return LazyMapIterator(
            self, f, zip(*sequences), ordered=ordered, max_outstanding=max_outstanding,  # noqa: B905
            return_exceptions=return_exceptions, progress=progress, total=total, name=name_of(f),
        )  # fmt: skip

    # ------------------------------------------------------------ the rest

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> None:
        """Take `jobs`, or all that this view has submitted, out of the queues where they have not begun."""
        if jobs is None:
            waiting.stop_sending(self.client, None, self._token)
        super().abort(jobs, targets, block)

    def queue_status(self, targets: Any = None, verbose: bool = False) -> dict[Any, Any]:
        """Return how many tasks these engines have, and how many wait for one, as `Client.queue_status`."""
        targets = self.targets if targets is None else targets
        return self.client.queue_status("all" if targets is None else targets, verbose)

    def register_joblib_backend(self, name: str = "ipyparallel", make_default: bool = False) -> None:
        """Make ``joblib.Parallel`` run on this view's engines, as the backend `name`.

        >>> lview.register_joblib_backend()  # doctest: +SKIP
        >>> with joblib.parallel_config("ipyparallel"):  # doctest: +SKIP
        ...     search.fit(X, y)
        """
        from mpiparallel.client.joblib_backend import register

        register(name, view=self, make_default=make_default)

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a LoadBalancedView is not iterable: the engines are chosen for each task")


def _whole(value: Any, name: str, least: int) -> int:
    """Return a flag that must be a whole number of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    if number > MOST:
        raise ValueError(f"{name} must be at most {MOST}, not {number}")
    return number
