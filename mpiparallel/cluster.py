"""`Cluster`: a controller and its engines, started and stopped together.

Users and the ``mpiparallel`` command call it. A `Cluster` owns the processes that it starts, through
`launch.local`, and their folder. Every method exists twice: ``start_cluster_sync()`` blocks,
``await start_cluster()`` (`cluster_async`) does the same work in a thread.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpiparallel import cluster_engines, connection_file, launchoptions
from mpiparallel import cluster_file as files
from mpiparallel.cluster_async import AsyncCluster
from mpiparallel.cluster_controller import ControllerKeeper
from mpiparallel.cluster_looks import ShownCluster
from mpiparallel.cluster_options import OptionedCluster, launcher
from mpiparallel.cluster_record import RecordedCluster
from mpiparallel.cluster_resize import ResizingCluster
from mpiparallel.cluster_restart import RestartingCluster
from mpiparallel.config import Config
from mpiparallel.error import LaunchError
from mpiparallel.launch import launchers
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launch.requests import WorldRequest

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

WORLD_LEAVES = 3.0  # how long engines that were sent home may take


class Cluster(
    ShownCluster,
    AsyncCluster,
    OptionedCluster,
    RecordedCluster,
    ControllerKeeper,
    RestartingCluster,
    ResizingCluster,
):
    """A controller and engines on this machine.

    Parameters
    ----------
    n : int, optional
        Number of engines; the number of cores if None.
    engines, controller : str, optional
        How to start them: ``"mpi"`` (``"local"`` means the same), or another launcher of `LaunchOptions`.
    profile, cluster_id : str, optional
        The names under which ``Client(profile=..., cluster_id=...)`` finds it; the profile may have a file of
        settings (``mpiparallel profile new NAME``). The cluster id is made up if None; ``""`` is the
        profile's default cluster.
    profile_dir : path, optional
        The profile's folder, instead of `profile`.
    cluster_file : path, optional
        Where to write the cluster file, if not into the cluster's folder.
    controller_ip : str
        The address to listen on; by default this machine only when all engines run here, else all networks
        (``"0.0.0.0"``).
    controller_args, engine_args, mpi_args : list of str
        More arguments for each.
    dedicated_bridge : bool
        Whether each world gets one rank more, which runs no user code and passes messages on: tasks then
        reach the other engines at once whatever user code does on the first.
    environment : dict
        More environment variables for controller and engines.
    engine_timeout : float
        How many seconds engines may take to connect (60).
    restart : {False, "same", "fresh"}
        Whether engines whose world has ended unasked are started again, with the ids that they had
        (``"same"``; True means that, too) or with new ones.
    restart_limit : int
        How often within a minute.
    shutdown_atexit : bool
        Stop it when this program ends, however it ends; otherwise it lives on until somebody stops it.
    log_level : int or str
        The controller's log level.
    load_profile : bool
        Whether the environment (``MPIPARALLEL_<KEY>``) and the file of `profile`, if it has one, say what is
        not given here.
    delay, send_engines_connection_env, parent
        Taken for compatibility, without effect.
    **options
        What else `LaunchOptions` has: ``partition="debug"``, ``time="1:00:00"``, ...

    Examples
    --------
    >>> import mpiparallel as ipp
    >>> with ipp.Cluster(n=4) as rc:
    ...     rc[:].apply_sync(lambda: mpi_rank)
    [0, 1, 2, 3]
    """

    def __init__(
        self,
        *,
        n: int | None = None,
        engines: str | None = None,
        controller: str | None = None,
        profile: str | None = None,
        profile_dir: str | Path | None = None,
        cluster_id: str | None = None,
        cluster_file: str | Path | None = None,
        controller_ip: str = "",
        controller_args: Iterable[str] = (),
        engine_args: Iterable[str] = (),
        mpi_args: Iterable[str] = (),
        dedicated_bridge: bool = False,
        environment: Mapping[str, str] | None = None,
        engine_timeout: float | None = None,
        restart: bool | str = False,
        restart_limit: int = 3,
        delay: float = 1.0,
        shutdown_atexit: bool = True,
        log_level: int | str = logging.INFO,
        engine_launcher_class: Any = None,
        controller_launcher_class: Any = None,
        load_profile: bool = True,
        send_engines_connection_env: bool = True,
        parent: Any = None,
        config: Config | None = None,
        **options: Any,
    ) -> None:
        self.config = config if isinstance(config, Config) else Config.from_environment()
        starters = {
            "engines": launcher("engines", engines, engine_launcher_class),
            "controller": launcher("controller", controller, controller_launcher_class),
        }
        self.profile = profile or (self.config.profile if profile_dir is None else Path(profile_dir).name)
        self.cluster_id = f"{int(time.time())}-{secrets.token_hex(2)}" if cluster_id is None else cluster_id
        self.folder = files.folder_of(self.config, self.profile, profile_dir, self.cluster_id)
        self.cluster_file = Path(cluster_file).absolute() if cluster_file else self.folder / files.NAME
        given = {
            "n": n,
            "controller_ip": controller_ip or None,
            "controller_args": list(controller_args) or None,
            "engine_args": list(engine_args) or None,
            "mpi_args": list(mpi_args) or None,
            "environment": dict(environment or {}),
            "engine_timeout": None if engine_timeout is None else float(engine_timeout),
        }
        # A folder that is named by its path is no profile's.
        known = self.profile if load_profile and (profile or profile_dir is None) else ""
        self._take_options(starters, given, options, profile=known, dedicated=dedicated_bridge)
        self.n = self.options.n
        self.shutdown_atexit = shutdown_atexit
        self.log_level = logging.getLevelName(log_level) if isinstance(log_level, int) else log_level.upper()
        self.host = socket.gethostname()
        self.controller: Controller | None = None
        self.keeper = None
        self.engines: dict[str, EngineSet] = {}
        self.given_up = threading.Event()
        self._prepare_restarts(restart, restart_limit)
        self._prepare_clients()

    def __repr__(self) -> str:
        parts = [f"cluster_id={self.cluster_id!r}", f"profile={self.profile!r}"]
        if self.controller is not None:
            parts.append(f"controller=<{self.controller.state}>")
        if self.engines:
            parts.append(f"engine_sets={list(self.engines)}")
        return f"<Cluster({', '.join(parts)})>"

    @property
    def engine_set(self) -> EngineSet | None:
        """The first set of engines."""
        return next(iter(self.engines.values()), None)

    @property
    def connection_file(self) -> Path:
        """The connection file for clients."""
        return self.folder / connection_file.NAMES["client"]

    def engines_failed(self, n: int | None = None) -> str:
        """Return why `n` engines (or all) will not come; empty when they may."""
        if self.given_up.is_set():
            return "the start was given up"
        sets = list(self.engines.values())
        if n is not None and sum(one.n for one in sets if one.running) >= n:
            sets = []  # an earlier set may have ended: these take its place
        for part in (self.controller, *sets):
            if part is None or part.running or part.process.asked_to_stop:
                continue
            if isinstance(part, Controller) and not part.ended.is_set():
                continue  # it may be started again
            if not (isinstance(part, EngineSet) and self._will_restart(part)):
                return str(part.failure())
        return ""

    # ------------------------------------------------------------ starting

    def start_controller_sync(self) -> None:
        """Start the controller and wait until it takes connections.

        Raises
        ------
        RuntimeError
            If this cluster has one.
        LaunchError
            If it does not come up, or another cluster has this profile and cluster id.
        """
        self._start_controller(None)

    def _start_controller(self, world: WorldRequest | None) -> None:
        """Start the controller, and a world in the same job if there is one."""
        if self.controller is not None and self.controller.running:
            raise RuntimeError(f"the controller of {self!r} runs already")
        files.claim(self.folder)
        try:
            with self._raising():
                engine_set = self._launch_controller(world=world)
                self._await_controller()
            if engine_set is not None:
                engine_set.report_end(self._warn_of)
            if not self.shutdown_atexit:
                self._start_keeper()
        except BaseException:
            self.stop_cluster_sync()
            raise
        if self.shutdown_atexit:
            _stop_at_exit.add(self)

    def start_engines_sync(
        self, n: int | None = None, engine_set_id: str | None = None, first: int = -1
    ) -> str:
        """Start a set of `n` engines, one MPI world, and return its name. They connect when they are ready.

        With `first` their ids begin there, if these are free.

        Raises
        ------
        LaunchError
            If mpiexec is not found.
        """
        n = self._number(n)
        name = engine_set_id or f"{int(time.time())}-{secrets.token_hex(2)}"
        if "/" in name:
            raise ValueError(f"engine set {name!r}: it names a file, so it may not hold a slash")
        if name in self.engines and self.engines[name].running:
            raise RuntimeError(f"engine set {name!r} of {self!r} runs already")
        if self.controller is None:
            raise RuntimeError(f"{self!r} has no controller; call start_controller or start_cluster first")
        with self._changing:
            engine_set = self.engines[name] = launchers.start_world(self._world(name, n, first))
            engine_set.report_end(self._warn_of, lambda: self._engines_ended(engine_set))
            self.update_cluster_file()
        return name

    def _world(self, name: str, n: int, first: int) -> WorldRequest:
        return WorldRequest(
            directory=self.folder,
            name=name,
            n=n,
            config=self.config,
            options=self.options,
            first=first,
            environ=os.environ,
            lifeline=self.shutdown_atexit,
        )

    def start_cluster_sync(self, n: int | None = None) -> Cluster:
        """Start the controller and one set of `n` engines (none at all when it is 0)."""
        n = self._number(n)
        if n and self.options.controller in launchoptions.BATCH:
            name = f"{int(time.time())}-{secrets.token_hex(2)}"
            self._start_controller(self._world(name, n, -1))
            return self
        self.start_controller_sync()
        try:
            if n:
                self.start_engines_sync(n)
        except BaseException:
            self.stop_cluster_sync()
            raise
        return self

    def start_and_connect_sync(self, n: int | None = None, activate: bool = False) -> Client:
        """Start the cluster, wait for its engines and return a client.

        Raises
        ------
        LaunchError
            If the engines do not come within `engine_timeout` of the start of their job, or the job does not
            start within `queue_timeout`, or cannot; nothing is left running then.
        """
        n = self._number(n)
        with self._raising():
            self.start_cluster_sync(n)
            return self._connect_to_engines(n, activate)

    def _connect_to_engines(self, n: int, activate: bool) -> Client:
        client = None
        try:
            client = self.connect_client_sync()
            self.wait_for_engines_sync(client, n)
            if activate:
                client.activate()
        except BaseException:
            if client is not None:
                client.close()
            self.stop_cluster_sync()
            raise
        return client

    def connect_client_sync(self, **kwargs: Any) -> Client:
        """Return a `Client` of this cluster; `kwargs` are its."""
        from mpiparallel.client.client import Client

        self._await_new_controller()
        return self._note_client(Client(str(self.connection_file), cluster=self, **kwargs))

    def wait_for_engines_sync(self, client: Client, n: int, interactive: bool | None = None) -> None:
        """Wait until `client` sees `n` engines, with a bar if `interactive` (None: in IPython).

        Raises
        ------
        LaunchError
            If a part of the cluster ends meanwhile, or they do not come within `engine_timeout` of the start
            of their job, or that does not start within `queue_timeout`, or cannot.
        """
        sets = self.engines.values()
        patience = (self.engine_timeout, self.options.queue_timeout)
        cluster_engines.wait_for(client, n, sets, *patience, interactive=interactive)
        self.learn_ids(client)

    # ------------------------------------------------------------ stopping

    def stop_engines_sync(self, engine_set_id: str | None = None) -> None:
        """Stop one set of engines, or all of them."""
        names = self._sets(engine_set_id)
        self._expect_end(names)
        if names and self.controller is not None and self.controller.running:
            with self.connect_client_sync() as client:
                engines = cluster_engines.ids_of(client, names)
                if engines:
                    client.shutdown(engines, block=True)
        for name in names:
            self.engines.pop(name).leave(WORLD_LEAVES)
        self.update_cluster_file()

    def stop_controller_sync(self) -> None:
        """Stop the controller; its engines go with it."""
        self._expect_end(self.engines)
        with self._changing:
            if self.controller is not None:
                self.controller.process.asked_to_stop = True
        if self.controller is not None:
            self._stop_keeping()
            self.controller.stop(told=self._tell_to_stop())
            self.controller.process.close()
            self.controller = None

    def stop_cluster_sync(self) -> None:
        """Stop everything. Nothing is left but the results of a cluster that was to outlive its program."""
        began = self.controller is not None or bool(self.engines)
        try:
            self.stop_controller_sync()
        finally:
            for name in list(self.engines):
                # The controller has sent them home: mpiexec ends by itself, unless they never met.
                self.engines.pop(name).leave(WORLD_LEAVES)
            if began:
                self.remove_cluster_file()
                files.remove(self.folder, keep_results=not self.shutdown_atexit)
        _stop_at_exit.discard(self)

    def signal_engines_sync(self, signum: int, engine_set_id: str | None = None) -> None:
        """Send a signal to every engine of one set, or of all."""
        # Not by mpiexec, which takes some signals as an order to end the world.
        with self.connect_client_sync() as client:
            engines = cluster_engines.ids_of(client, self._sets(engine_set_id))
            if engines:
                client.send_signal(signum, engines, block=True)

    # ------------------------------------------------------------ small things

    def check_given_up(self) -> None:
        """Raise when the asyncio task that waits for this work was cancelled."""
        if self.given_up.is_set():
            raise LaunchError(f"the start of {self!r} was given up")

    def _expect_end(self, names: Iterable[str]) -> None:
        """Note that these sets are to end; none of them is started again from now on."""
        with self._changing:
            for name in names:
                self.engines[name].process.asked_to_stop = True

    def _sets(self, name: str | None) -> list[str]:
        if name is None:
            return list(self.engines)
        if name not in self.engines:
            raise KeyError(f"no engine set {name!r} in {self!r}")
        return [name]


# Kept here until they are stopped: ``rc = Cluster(n=4).start_and_connect_sync()`` keeps no other reference.
_stop_at_exit: set[Cluster] = set()
_our_pid = os.getpid()


@atexit.register
def _stop_clusters() -> None:
    if os.getpid() != _our_pid:
        return  # a forked child ends; the clusters are its parent's
    for cluster in list(_stop_at_exit):
        cluster.stop_cluster_sync()
