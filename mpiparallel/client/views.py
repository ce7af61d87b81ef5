"""Views of engines that the user chooses directly."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mpiparallel.client import interrupting, partition
from mpiparallel.client import progress as bars
from mpiparallel.client.asyncresult import AsyncResult
from mpiparallel.client.imports import sync_imports
from mpiparallel.client.mapresult import AsyncMapResult
from mpiparallel.client.view_base import View, dump_function, name_of
from mpiparallel.wire import objects

if TYPE_CHECKING:
    from mpiparallel.client.client import Client


class DirectView(View):
    """Engines chosen by id: everything that is called runs on each of them.

    A DirectView is a dictionary of the engines' namespaces too.

    >>> view["a"] = 5  # doctest: +SKIP
    >>> view["a"]  # doctest: +SKIP
    [5, 5, 5, 5]
    """

    # ------------------------------------------------------------ code

    def execute(
        self,
        code: str,
        silent: bool = True,
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> AsyncResult:
        """Run code, IPython's magics included, in the engines' namespaces.

        Returns an AsyncResult of `ExecuteReply` also when it blocks. An error takes what this client has
        queued behind it out of the engine's queue. Ctrl-C in a call that blocks interrupts the engines.

        Parameters
        ----------
        code
            Python.
        silent
            Whether to leave the engine's execution count and history alone.
        targets, block, label
            Instead of the view's own.
        """
        if not isinstance(code, str):
            raise TypeError(f"code must be text, not {type(code)!r}")
        engines, single = self._resolve(targets)
        block = self._blocks(block)
        tasks = self._submit(
            "execute", engines, block=block, track=False, common=objects.dumps(code),
            options={"silent": bool(silent)}, label=self.label if label is None else label,
        )  # fmt: skip
        result = AsyncResult(self.client, tasks, "execute", single=single)
        if block:
            interrupting.get(result)
        return result

    def run(
        self, filename: Any, targets: Any = None, block: bool | None = None, label: str | None = None
    ) -> AsyncResult:
        """Run the file `filename` of this machine on the engines, as `execute` does."""
        with open(filename, encoding="utf-8") as file:
            code = file.read()
        return self.execute(code + "\n", targets=targets, block=block, label=label)

    # ------------------------------------------------------------ data

    def push(
        self, ns: dict[str, Any], targets: Any = None, block: bool | None = None, track: bool | None = None
    ) -> AsyncResult | None:
        """Assign the values of `ns` to its keys, which may be expressions: ``"a.b"``, ``"a[0]"``."""
        if not isinstance(ns, dict):
            raise TypeError(f"Must be a dict, not {type(ns).__name__}")
        for key in ns:
            if not isinstance(key, str):
                raise TypeError(f"keys must be text, not {key!r}")
        engines, single = self._resolve(targets)
        block = self._blocks(block)
        tasks = self._submit("push", engines, block=block, track=track, common=objects.dumps(ns))
        result: AsyncResult = AsyncResult(self.client, tasks, "push", single=single)
        if not block:
            return result
        result.get()
        return None

    def update(self, ns: dict[str, Any]) -> AsyncResult | None:
        """Assign the values of `ns` to its keys on the engines, as `push`."""
        return self.push(ns, block=self.block, track=self.track)

    def pull(self, names: str | Sequence[str], targets: Any = None, block: bool | None = None) -> Any:
        """Return the value of a name or expression on each engine, or the values of several."""
        if not isinstance(names, str):
            if not isinstance(names, (list, tuple, set)):
                raise TypeError(f"names must be text or a list of it, not {names!r}")
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(f"names must be text, not {name!r}")
            names = list(names)
        engines, single = self._resolve(targets)
        tasks = self._submit("pull", engines, track=False, common=objects.dumps(names))
        return self._finish(AsyncResult(self.client, tasks, "pull", single=single), self._blocks(block))

    def get(self, key_s: str | Sequence[str]) -> Any:
        """Return the value of a name, or of several, on each engine; always waits."""
        return self.pull(key_s, block=True)

    def __getitem__(self, key: str | Sequence[str]) -> Any:
        return self.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __iter__(self) -> Iterator[Any]:
        # Indexing is by name here, so Python's own way of iterating would ask the engines for "0".
        raise TypeError(f"{type(self).__name__} is not iterable: iterate over the client")

    def scatter(
        self,
        key: str,
        seq: Any,
        dist: str = "b",
        flatten: bool = False,
        targets: Any = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> AsyncResult | None:
        """Cut `seq` into one part for each engine, which gets it as `key`.

        Parameters
        ----------
        key
            A name or expression.
        seq
            A list, tuple, range, text, bytes, array or pandas object; any other iterable is listed.
        dist
            ``"b"``: contiguous blocks; ``"r"``: round-robin.
        flatten
            Send a part of length 1 as the bare item.
        targets, block, track
            Instead of the view's own.
        """
        if not isinstance(key, str):
            raise TypeError(f"key must be text, not {key!r}")
        engines, single = self._resolve(targets)
        block = self._blocks(block)
        parts = partition.partition(seq, len(engines), dist)
        if flatten:
            parts = [partition.first_item(part) if len(part) == 1 else part for part in parts]
        tasks = self._submit(
            "scatter", engines, block=block, track=track,
            parts=[objects.dumps(part) for part in parts], options={"key": key},
        )  # fmt: skip
        result: AsyncResult = AsyncResult(self.client, tasks, "scatter", single=single)
        if not block:
            return result
        result.get()
        return None

    def gather(self, key: str, dist: str = "b", targets: Any = None, block: bool | None = None) -> Any:
        """Return the parts named `key` of all engines as one sequence; the inverse of `scatter`."""
        if not isinstance(key, str):
            raise TypeError(f"key must be text, not {key!r}")
        partition.check_dist(dist)
        engines, _ = self._resolve(targets)
        tasks = self._submit("gather", engines, track=False, common=objects.dumps(key))
        result = AsyncMapResult(self.client, tasks, "gather", dist=dist, itemwise=False)
        return self._finish(result, self._blocks(block))

    # ------------------------------------------------------------ map

    def map(
        self,
        f: Any,
        *sequences: Any,
        block: bool | None = None,
        track: bool | None = None,
        return_exceptions: bool = False,
        label: str | None = None,
        chunksize: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Call `f` on the items of the sequences, each engine on one block; return the values in order.

        >>> view.map_sync(pow, range(5), [2] * 5)  # doctest: +SKIP
        [0, 1, 4, 9, 16]

        Parameters
        ----------
        f
            The function, or a Reference to one.
        *sequences
            As for Python's ``map``: the shortest counts.
        block, track, label
            Instead of the view's own.
        return_exceptions
            Return errors in the places of values instead of raising.
        chunksize
            Ignored: an engine gets one chunk.
        progress
            Whether a map that blocks shows a progress bar; None: in IPython, when it takes more than two
            seconds. Of others, `AsyncResult.wait_interactive` shows one.
        """
        if chunksize is not None:
            warnings.warn(
                f"a DirectView has one chunk for each engine: chunksize={chunksize} is ignored", stacklevel=2
            )
        assert sequences, "must have some sequences to map onto!"
        return self._map(
            f, sequences, "b", block=block, track=track, return_exceptions=return_exceptions,
            label=self.label if label is None else label, progress=progress,
        )  # fmt: skip

    def _map(
        self,
        f: Any,
        sequences: Sequence[Any],
        dist: str,
        *,
        block: bool | None = None,
        track: bool | None = None,
        return_exceptions: bool = False,
        label: str | None = None,
        ordered: bool = True,
        progress: bool | None = None,
    ) -> Any:
        engines, _ = self._resolve()
        block = self._blocks(block)
        sequences = [partition.listed(sequence) for sequence in sequences]
        total = min(len(sequence) for sequence in sequences)
        if not total:
            result = AsyncMapResult(self.client, [], name_of(f))
            return self._finish(result, block)
        engines = engines[:total]
        cut = [
            partition.partition(partition.head(sequence, total), len(engines), dist) for sequence in sequences
        ]
        chunks = list(zip(*cut, strict=True))
        tasks = self._submit(
            "map", engines, block=block, track=track, label=label, function=dump_function(f),
            parts=[objects.dumps(chunk) for chunk in chunks],
            options={"return_exceptions": bool(return_exceptions)},
        )  # fmt: skip
        result = AsyncMapResult(
            self.client, tasks, name_of(f), dist=dist, ordered=ordered,
            return_exceptions=return_exceptions, sizes=[len(chunk[0]) for chunk in chunks],
        )  # fmt: skip
        if not block:
            return result
        with bars.following(result, progress):
            return result.get()

    def _apply_parts(self, f: Any, sequences: Sequence[Any], dist: str, *, ordered: bool) -> Any:
        """Call `f` on each engine once, with its parts of the sequences, and join what comes back."""
        engines, _ = self._resolve()
        block = self._blocks(None)
        total = len(sequences[0])
        engines = engines[: max(1, total)]
        cut = [partition.partition(sequence, len(engines), dist) for sequence in sequences]
        chunks = list(zip(*cut, strict=True))
        tasks = self._submit(
            "apply", engines, block=block, function=dump_function(f),
            parts=[objects.dumps((chunk, {})) for chunk in chunks],
        )  # fmt: skip
        result = AsyncMapResult(
            self.client, tasks, name_of(f), dist=dist, ordered=ordered, itemwise=False,
            sizes=[len(chunk[0]) for chunk in chunks],
        )  # fmt: skip
        return self._finish(result, block)

    # ------------------------------------------------------------ the rest

    def clear(self, targets: Any = None, block: bool | None = None) -> AsyncResult | None:
        """Empty the engines' namespaces."""
        return self.client._clear(self, self.targets if targets is None else targets, self._blocks(block))

    def sync_imports(self, local: bool = True, quiet: bool = False) -> AbstractContextManager[None]:
        """Return a context in which import statements happen here and on the engines.

        >>> with view.sync_imports():  # doctest: +SKIP
        ...     import numpy
        importing numpy on engine(s)
        """
        return sync_imports(self, local, quiet)

    @property
    def importer(self) -> AbstractContextManager[None]:
        """`sync_imports` with its defaults."""
        return sync_imports(self, True, False)

    def use_cloudpickle(self) -> None:
        """Do nothing: functions always travel by cloudpickle."""

    def use_dill(self) -> None:
        """Do nothing: functions travel by cloudpickle, which takes what dill takes."""

    def use_pickle(self) -> None:
        """Do nothing: what pickle takes, cloudpickle does too."""

    def activate(self, suffix: str = "") -> DirectView:
        """Make this the view that IPython's parallel magics (with `suffix`, magics of that name) use."""
        return self.client._activate(self, suffix)


class BroadcastView(DirectView):
    """A DirectView whose engines are fixed when it is made.

    Every view sends one message to all its engines, so there is nothing more to gain.

    Parameters
    ----------
    is_coalescing
        Kept for IPython Parallel's sake. Results are in target order, and no error is lost, either way.
    """

    _flag_names = ("targets", "block", "track", "label", "is_coalescing")

    def __init__(
        self, client: Client, targets: Any = "all", is_coalescing: bool = False, **flags: Any
    ) -> None:
        self.is_coalescing = is_coalescing
        super().__init__(client, client._engine_ids(targets), **flags)
