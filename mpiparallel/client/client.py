"""The client: a user's connection to a controller and its engines."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mpiparallel import error
from mpiparallel.client import activation, cards, locate, waiting
from mpiparallel.client.balanced import LoadBalancedView
from mpiparallel.client.connection import Connection
from mpiparallel.client.control import ControlMixin
from mpiparallel.client.executor import ViewExecutor
from mpiparallel.client.hubqueries import HubQueriesMixin
from mpiparallel.client.looks import Card, Shown
from mpiparallel.client.metadata import Metadata
from mpiparallel.client.tasks import History, Task, TaskMapping
from mpiparallel.client.views import BroadcastView, DirectView
from mpiparallel.config import Config
from mpiparallel.ranges import engines as engines_text

_SSH = ("password", "paramiko")  # ssh asks agents and its own configuration
_IGNORED = ("ipython_dir", "context", "debug")  # IPython Parallel has them; they mean nothing here


class Client(Shown, ControlMixin, HubQueriesMixin):
    """A connection to a controller and its engines.

    >>> rc = ipp.Client()  # doctest: +SKIP
    >>> rc[:].apply_sync(os.getpid)  # doctest: +SKIP
    [4101, 4102, 4103, 4104]

    Parameters
    ----------
    connection_info
        A connection file, or its content as a dict. By default that of the profile's running cluster.
    url_file
        The same, by its older name.
    profile, profile_dir, cluster_id
        Which cluster, where no file is given.
    cluster
        The `Cluster` object that this client belongs to, if any.
    timeout
        Seconds to wait for the file, and for the controller.
    ssh
        The host where the cluster is, or through which it is reached, as for the command ssh: ``user@login``.
        Files, profiles and ids are those of that host then. ssh must log in without questions.
    job
        The batch job that the controller or engines are in, instead of a profile or an id.
    sshserver, sshkey
        As in IPython Parallel: a connection file that is given is here, and the way to its controller leads
        through this host; a file with a key for ssh.

    Attributes
    ----------
    ids : list of int
        The engines that are there; they need not be consecutive.
    block : bool
        Whether views made from now on wait for results.
    history : sequence of str
        The msg_ids of the last requests.
    outstanding : set of str
        The msg_ids of tasks that are not done.
    results : mapping
        Values by msg_id, while somebody holds the AsyncResult.
    metadata : mapping
        Metadata by msg_id, likewise.
    """

    def __init__(
        self,
        connection_info: Any = None,
        *,
        url_file: Any = None,
        profile: str | None = None,
        profile_dir: Any = None,
        timeout: float = 10,
        cluster_id: str | None = None,
        cluster: Any = None,
        ssh: str | None = None,
        job: int | str | None = None,
        sshserver: str | None = None,
        sshkey: Any = None,
        **options: Any,
    ) -> None:
        _check_options(options)
        source = url_file if connection_info is None else connection_info
        self._config = Config.from_environment()
        if source is None and cluster is not None:
            source = getattr(cluster, "connection_file", None)
        way = path = None
        if ssh is None and sshserver is None:
            info, path = locate.find(source, self._config, timeout, profile, profile_dir, cluster_id, job)
        else:
            info, way = locate.find_behind(
                source, self._config, timeout, ssh=ssh, sshserver=sshserver, sshkey=sshkey,
                profile=profile, profile_dir=profile_dir, cluster_id=cluster_id, job=job,
            )  # fmt: skip
        self.block = False
        self.profile = profile or self._config.profile
        self.cluster = cluster
        self._dask: Any = None  # dask's scheduler and workers, if there are any
        self._feeding: weakref.WeakSet[Any] = weakref.WeakSet()  # maps that threads of their own send
        self.debug = bool(options.get("debug"))
        self.history = History()
        self._connection = Connection(info, self._config, timeout, path, way)
        # Also at the interpreter's exit, so that a forgotten client does not hold it up.
        self._finalizer = weakref.finalize(self, self._connection.close)
        self.results = self._result_mapping(lambda task: True)
        self.metadata = TaskMapping(
            self._connection.tasks, lambda task: True, lambda task: task.metadata, lambda key: Metadata()
        )
        activation.client_made(self)

    def __repr__(self) -> str:
        if self._connection.gone is not None:
            return "<Client: closed>"
        engines = self._connection.engines
        worlds = {engine.world for engine in engines.values()}
        where = f"{len(worlds)} world{'s' * (len(worlds) != 1)}, " if engines else ""
        count = f"{len(engines)} engine{'s' * (len(engines) != 1)}"
        return f"<Client: {count}, {where}controller on {self._connection.info.host}>"

    def _card(self) -> Card:
        return cards.client_card(self)

    # ------------------------------------------------------------ engines

    @property
    def ids(self) -> list[int]:
        """The ids of the engines that are there."""
        return list(self._connection.engines)

    def __len__(self) -> int:
        return len(self._connection.engines)

    def __bool__(self) -> bool:
        return True  # a client without engines is one all the same

    def __iter__(self) -> Iterator[DirectView]:
        for engine in self.ids:
            yield self.direct_view(engine)

    def __getitem__(self, key: Any) -> DirectView:
        if isinstance(key, bool) or not isinstance(key, (int, slice, tuple, list, range)):
            raise TypeError(
                f"key by int, slice, list, tuple or range of engine ids, not {type(key).__name__}: {key!r}"
            )
        return self.direct_view(key)

    def _engine_ids(self, targets: Any, empty: bool = False) -> list[int]:
        """Return the ids that `targets` stands for.

        Raises
        ------
        NoEnginesRegistered
            If there are none, unless `empty` allows it.
        IndexError
            If one does not exist.
        """
        engines = self._connection.engines
        if isinstance(targets, (list, tuple)):
            self._check_present(targets)
        if not engines and not empty:
            self._connection.check()
            raise error.NoEnginesRegistered()
        if targets is None or (isinstance(targets, str) and targets == "all"):
            return list(engines)
        if isinstance(targets, slice):
            return list(engines)[targets]
        if isinstance(targets, (str, bool)):
            raise TypeError(f"{targets!r} not valid str target, must be 'all', an id, a slice or ids")
        if hasattr(targets, "__index__"):
            return [self._engine_id(targets.__index__())]
        try:
            wanted = list(targets)
        except TypeError:
            raise TypeError(f"targets must be 'all', an id, a slice or ids, not {targets!r}") from None
        chosen = [self._engine_id(target) for target in wanted]
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"an engine is named twice in {wanted}")
        return chosen

    def _check_present(self, wanted: Sequence[Any]) -> None:
        """Raise IndexError if engines that have left are among `wanted`, and name all of them."""
        engines, departed = self._connection.engines, self._connection.departed
        gone: dict[str, list[int]] = {}
        for number in wanted:
            if isinstance(number, int) and number not in engines and number in departed:
                gone.setdefault(departed[number], []).append(number)
        if gone and len(wanted) > 1:
            why = "; ".join(f"{engines_text(several)}: {reason}" for reason, several in gone.items())
            raise IndexError(f"engines of this view have left ({why}). Take a new one: client[:]")

    def _engine_id(self, target: Any) -> int:
        if isinstance(target, bool) or not hasattr(target, "__index__"):
            raise TypeError(f"an engine is named by a whole number, not by {target!r}")
        engines, number = self._connection.engines, target.__index__()
        if number < 0:
            ids = list(engines)
            if number < -len(ids):
                raise IndexError(f"No such engine: {number}")
            return ids[number]
        if number not in engines:
            reason = self._connection.departed.get(number)
            raise IndexError(f"No such engine: {number}" + (f" (it has left: {reason})" if reason else ""))
        return number

    def wait_for_engines(
        self,
        n: int | None = None,
        *,
        timeout: float = -1,
        block: bool = True,
        interactive: bool | None = None,
        widget: bool | None = None,
    ) -> Any:
        """Wait until there are `n` engines.

        Parameters
        ----------
        n
            How many; by default as many as the client's `cluster` starts.
        timeout
            Seconds; negative: as long as it takes.
        block
            False: return a `concurrent.futures.Future` at once.
        interactive
            Whether to show a progress bar; by default in IPython.
        widget
            Whether the bar is a widget; by default in a notebook.

        Raises
        ------
        TimeoutError
            If they are not there in time.
        EngineError
            If an engine leaves meanwhile.
        """
        return waiting.wait_for_engines(self, n, timeout, block, interactive, widget)

    # ------------------------------------------------------------ views

    def direct_view(self, targets: Any = "all", **flags: Any) -> DirectView:
        """Return a view of these engines; ``"all"`` means those that are there at each call."""
        if not (isinstance(targets, str) and targets == "all"):
            chosen = self._engine_ids(targets)
            targets = chosen[0] if hasattr(targets, "__index__") else chosen
        elif not self._connection.engines:
            self._engine_ids(targets)
        return DirectView(self, targets, **flags)

    def broadcast_view(
        self, targets: Any = "all", is_coalescing: bool = False, **flags: Any
    ) -> BroadcastView:
        """Return a view of these engines, as `direct_view`; ``"all"`` means those that are there now."""
        return BroadcastView(self, targets, is_coalescing=is_coalescing, **flags)

    def load_balanced_view(self, targets: Any = None, **flags: Any) -> LoadBalancedView:
        """Return a view whose tasks run on whichever of `targets` are free; None: of all there ever are.

        Parameters
        ----------
        targets
            Engines that may be chosen.
        **flags
            Of the view: ``block track label after follow timeout retries ranks``.
        """
        if not self._connection.engines:
            self._engine_ids("all")
        if isinstance(targets, str) and targets == "all":
            targets = None
        return LoadBalancedView(self, None if targets is None else self._engine_ids(targets), **flags)

    def executor(self, targets: Any = None) -> ViewExecutor:
        """Return an executor as of `concurrent.futures`; calls run on whichever of `targets` are free."""
        return self.load_balanced_view(targets).executor

    def activate(self, targets: Any = "all", suffix: str = "") -> DirectView:
        """Return a blocking view of `targets`, which IPython's parallel magics use.

        With a suffix, magics of their own: ``%px_left`` and its kin for ``"_left"``.
        """
        return self._activate(self.direct_view(targets, block=True), suffix)

    def _activate(self, view: DirectView, suffix: str) -> DirectView:
        activation.activate(view, suffix)
        return view

    # ------------------------------------------------------------ dask

    def become_dask(
        self,
        targets: Any = "all",
        port: int = 0,
        nanny: bool = False,
        scheduler_args: dict[str, Any] | None = None,
        **worker_args: Any,
    ) -> Any:
        """Make engines workers of dask too, and return the `distributed.Client` that uses them.

        The scheduler runs here. The engines go on to serve this client.

        Parameters
        ----------
        targets
            Which engines.
        port
            Of the scheduler; 0: any.
        nanny
            Must be False: an engine cannot be started again on its own.
        scheduler_args
            For `distributed.LocalCluster`; ``host`` is the address by which engines reach this host.
        **worker_args
            For `distributed.Worker`, such as ``nthreads`` (1 by default).
        """
        from mpiparallel.client import dask

        return dask.become(self, targets, port, nanny, scheduler_args, worker_args)

    def stop_dask(self, targets: Any = "all") -> None:
        """End these engines' dask workers, and dask's scheduler and client with the last of them."""
        from mpiparallel.client import dask

        dask.stop(self, targets)

    become_distributed = become_dask
    stop_distributed = stop_dask

    # ------------------------------------------------------------ results

    @property
    def outstanding(self) -> set[str]:
        """The msg_ids of tasks that are not done."""
        return {task.msg_id for task in self._connection.outstanding()}

    def _result_mapping(self, select: Callable[[Task], bool]) -> TaskMapping:
        def missing(key: str) -> Any:
            raise KeyError(
                f"no result of {key!r} here: it is not done, is not ours, or nobody holds it any more"
            )

        return TaskMapping(
            self._connection.tasks,
            lambda task: task.done and select(task),
            lambda task: task.value() if task.error() is None else task.error(),
            missing,
        )

    # ------------------------------------------------------------ life

    def close(self, linger: float | None = None) -> None:
        """Close the connection. What engines are doing goes on."""
        self._finalizer.detach()
        self._connection.close(linger)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def spin(self) -> None:
        """Do nothing: results arrive by themselves."""

    def spin_thread(self, interval: float = 1) -> None:
        """Do nothing: results arrive by themselves."""

    def stop_spin_thread(self) -> None:
        """Do nothing: results arrive by themselves."""


def _check_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name in _SSH:
            if value:
                raise ValueError(
                    f"{name}=...: tunnels are those of the command ssh, which asks no questions here. Give "
                    "it a key (ssh-add, sshkey=...), or run in a terminal: mpiparallel attach user@host"
                )
        elif name not in _IGNORED:
            raise TypeError(f"Client got an unexpected keyword argument {name!r}")
