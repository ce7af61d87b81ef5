"""What all views have in common: flags, targets, apply, and the short-cuts to the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from mpiparallel.client import cards, functioncache, waiting
from mpiparallel.client import progress as bars
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.looks import Card, Shown
from mpiparallel.client.tasks import History, Task, TaskMapping
from mpiparallel.wire import objects
from mpiparallel.wire.references import Reference

if TYPE_CHECKING:
    from mpiparallel.client.client import Client
    from mpiparallel.client.executor import ViewExecutor
    from mpiparallel.client.functions import ParallelFunction, RemoteFunction
    from mpiparallel.client.where import Whereabouts


def name_of(f: Any) -> str:
    """Return the name by which messages call a function."""
    return getattr(f, "__name__", None) or repr(f)


def dump_function(f: Any) -> list[Any]:
    """Return the frames of a function or a Reference to one.

    Raises
    ------
    TypeError
        If `f` is neither.
    """
    if not callable(f) and not isinstance(f, Reference):
        raise TypeError(f"f must be callable, not {type(f)!r}")
    return functioncache.dumps(f)


class View(Shown):
    """A way of running things on engines.

    Attributes
    ----------
    targets
        Which engines: an id, a list of ids, or ``"all"``, which means those that are there at each call.
    block
        Whether calls wait for their results.
    track
        Whether non-blocking calls send data without a copy; ``AsyncResult.wait_for_send`` says when it may be
        changed.
    label
        The user's own mark, kept in the metadata of what this view submits.
    """

    _flag_names: tuple[str, ...] = ("targets", "block", "track", "label")
    _executor: ViewExecutor | None = None

    def __init__(self, client: Client, targets: Any = "all", **flags: Any) -> None:
        self.client = client
        self.targets = targets
        self.block = client.block
        self.track = False
        self.label: str | None = None
        self._token = object()  # names this view in the requests it sends
        self.history = History()
        self.set_flags(**flags)

    # ------------------------------------------------------------ flags and targets

    def set_flags(self, **flags: Any) -> View:
        """Set flags by name and return the view.

        Raises
        ------
        KeyError
            If there is no flag of that name.
        """
        for name in flags:
            if name not in self._flag_names:
                raise KeyError(
                    f"invalid flag {name!r}: a {type(self).__name__} has {', '.join(self._flag_names)}"
                )
        for name, value in flags.items():
            setattr(self, name, value)
        return self

    def temp_flags(self, **flags: Any) -> AbstractContextManager[None]:
        """Return a context in which these flags are set.

        >>> with view.temp_flags(block=True):  # doctest: +SKIP
        ...     view.apply(work)
        """
        return self._flags_set(flags)

    @contextmanager
    def _flags_set(self, flags: dict[str, Any]) -> Iterator[None]:
        saved = {name: getattr(self, name) for name in self._flag_names}
        self.set_flags(**flags)
        try:
            yield
        finally:
            self.set_flags(**saved)

    def _resolve(self, targets: Any = None) -> tuple[list[int], bool]:
        """Return engine ids, and whether a single result is wanted."""
        targets = self.targets if targets is None else targets
        return self.client._engine_ids(targets), isinstance(targets, int)

    def _blocks(self, block: bool | None) -> bool:
        return bool(self.block if block is None else block)

    def __len__(self) -> int:
        return len(self.client._engine_ids(self.targets, empty=True))

    def __repr__(self) -> str:
        shown = str(self.targets)
        if isinstance(self.targets, (list, tuple)) and len(self.targets) > 4:
            shown = f"[{', '.join(map(str, self.targets[:4]))}, ...]"
        return f"<{type(self).__name__} {shown}>"

    def _card(self) -> Card:
        return cards.view_card(self)

    # ------------------------------------------------------------ submitting

    def _submit(
        self,
        verb: str,
        engines: Sequence[int],
        *,
        block: bool = False,
        track: bool | None = None,
        **request: Any,
    ) -> list[Task]:
        """Send a request of this view. Data is copied unless the caller waits, or tracks the sending."""
        track = bool(self.track if track is None else track)
        if not block and not track:
            request["common"] = objects.copied(request.get("common", ()))
            request["parts"] = [objects.copied(part) for part in request.get("parts", ())]
        request.setdefault("label", self.label)
        return self._note(
            self.client._connection.submit(verb, engines, track=track, owner=self._token, **request)
        )

    def _note(self, tasks: list[Task]) -> list[Task]:
        """Add what was sent to the histories, and return it."""
        msg_ids = [task.msg_id for task in tasks]
        self.history.add(msg_ids)
        self.client.history.add(msg_ids)
        return tasks

    def _finish(self, result: AsyncResult, block: bool) -> Any:
        """Return the value if the call blocks, else the AsyncResult."""
        return result.get() if block else result

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
        """Call ``f(*args, **kwargs)`` on each target; what it returns is of class `kind`."""
        engines, single = self._resolve(targets)
        block = self._blocks(block)
        tasks = self._submit(
            "apply", engines, block=block, track=track,
            function=dump_function(f), common=objects.dumps((tuple(args), kwargs)),
        )  # fmt: skip
        return self._finish(kind(self.client, tasks, name_of(f), single=single), block)

    def apply(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` on the engines; return values if the view blocks, else an AsyncResult.

        >>> view.apply_sync(pow, 2, 3)  # doctest: +SKIP
        [8, 8, 8, 8]
        """
        return self._apply(f, args, kwargs)

    def apply_async(self, f: Any, /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call ``f(*args, **kwargs)`` on the engines and return an AsyncResult at once."""
        return self._apply(f, args, kwargs, block=False)

    def apply_sync(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``f(*args, **kwargs)`` on the engines and return the values."""
        return self._apply(f, args, kwargs, block=True)

    def map(self, f: Any, *sequences: Any, **options: Any) -> Any:
        """Call `f` on items of the sequences, spread over the engines."""
        raise NotImplementedError("a view of this kind has no map")

    def map_async(self, f: Any, *sequences: Any, **options: Any) -> Any:
        """Return an AsyncMapResult at once; otherwise as `map`."""
        if "block" in options:
            raise TypeError("map_async doesn't take a `block` keyword argument.")
        return self.map(f, *sequences, block=False, **options)

    def map_sync(self, f: Any, *sequences: Any, **options: Any) -> Any:
        """Return the values; otherwise as `map`."""
        if "block" in options:
            raise TypeError("map_sync doesn't take a `block` keyword argument.")
        return self.map(f, *sequences, block=True, **options)

    def imap(self, f: Any, *sequences: Any, **options: Any) -> Iterator[Any]:
        """Return an iterator over the values of `map`, which gives them as they come, in order.

        With ``progress=True``, a progress bar counts the values that have been taken.
        """
        progress = options.pop("progress", False)
        result = self.map_async(f, *sequences, **options)
        return bars.iterate(result) if progress else iter(result)

    # ------------------------------------------------------------ decorators

    def remote(self, block: bool | None = None, **flags: Any) -> Callable[[Any], RemoteFunction]:
        """Return a decorator: the function runs on this view's engines."""
        from mpiparallel.client.functions import remote

        return remote(self, block=block, **flags)

    def parallel(
        self, dist: str = "b", block: bool | None = None, **flags: Any
    ) -> Callable[[Any], ParallelFunction]:
        """Return a decorator: each engine runs the function on its part of the arguments."""
        from mpiparallel.client.functions import parallel

        return parallel(self, dist=dist, block=block, **flags)  # type: ignore[arg-type]

    # ------------------------------------------------------------ what this view has submitted

    @property
    def outstanding(self) -> set[str]:
        """The msg_ids of what this view has submitted and is not done."""
        tasks = self.client._connection.outstanding()
        return {task.msg_id for task in tasks if task.request.owner is self._token}

    @property
    def results(self) -> TaskMapping:
        """The results, by msg_id, of what this view has submitted, while somebody holds them."""
        return self.client._result_mapping(lambda task: task.request.owner is self._token)

    def wait(self, jobs: Any = None, timeout: float = -1) -> bool:
        """Wait for `jobs`, or for all that this view has submitted; return whether all is done."""
        return waiting.wait(self.client, jobs, timeout, owner=self._token)

    def wait_interactive(self, jobs: Any = None, interval: float = 1.0, timeout: float = -1.0) -> bool:
        """Wait as `wait` does, with a progress bar."""
        return waiting.wait_interactive(self.client, jobs, interval, timeout, owner=self._token)

    def get_result(
        self, indices_or_msg_ids: Any = None, block: bool | None = None, owner: bool = False
    ) -> AsyncResult:
        """Return the AsyncResult of msg_ids, or of places in this view's history; the last by default."""
        jobs = -1 if indices_or_msg_ids is None else indices_or_msg_ids
        if isinstance(jobs, (int, slice)):
            jobs = self.history[jobs]
        return self.client.get_result(jobs, block=block, owner=owner)

    def abort(self, jobs: Any = None, targets: Any = None, block: bool | None = None) -> None:
        """Take `jobs`, or all that this view has submitted, out of the queues where they have not begun."""
        self.client.abort(list(self.outstanding) if jobs is None else jobs, targets, block)

    # ------------------------------------------------------------ short-cuts

    @property
    def executor(self) -> ViewExecutor:
        """An executor as of `concurrent.futures`, whose calls run by this view."""
        from mpiparallel.client.executor import ViewExecutor

        if self._executor is None:
            self._executor = ViewExecutor(self)
        return self._executor

    def queue_status(self, targets: Any = None, verbose: bool = False) -> dict[Any, Any]:
        """Return how many tasks these engines have, as `Client.queue_status`."""
        return self.client.queue_status(self.targets if targets is None else targets, verbose)

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget results here and in the controller."""
        self.client.purge_results(jobs, targets)

    def interrupt(self, targets: Any = None) -> None:
        """Interrupt what runs on these engines, as `Client.interrupt`."""
        self.client.interrupt(self.targets if targets is None else targets)

    def where(self, targets: Any = None) -> Whereabouts:
        """Return what these engines are doing at this moment, as `Client.where`."""
        return self.client.where(self.targets if targets is None else targets)

    def shutdown(
        self, targets: Any = None, restart: bool = False, hub: bool = False, block: bool | None = None
    ) -> Any:
        """End these engines, as `Client.shutdown`."""
        return self.client.shutdown(self.targets if targets is None else targets, restart, hub, block)

    def spin(self) -> None:
        """Do nothing: results arrive by themselves."""
