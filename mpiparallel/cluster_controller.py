"""The part of `Cluster` that starts its controller, and starts it again when it has died unasked.

Only `cluster.Cluster` derives from it. The new one finds in the folder what the old one left, engines and
clients connect to it by themselves, and what runs goes on.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mpiparallel import cluster_file as files
from mpiparallel import cluster_keeper, cluster_waiting, connection_file
from mpiparallel.config import Config
from mpiparallel.error import IPythonError, LaunchError
from mpiparallel.launch import keeping, launchers, local
from mpiparallel.launch.jobs import Job
from mpiparallel.launch.launched import Controller, EngineSet, Launched, attach
from mpiparallel.launch.processes import Process
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

if TYPE_CHECKING:
    from mpiparallel.client.client import Client

log = logging.getLogger("mpiparallel.cluster")

TOLD = 10.0  # seconds for a controller to take a message
COMES_BACK = 3.0  # seconds within which a controller that has died should be there again


class ControllerKeeper:
    """What `Cluster` does with its controller."""

    folder: Path
    host: str
    connect_client_sync: Callable[..., Client]
    cluster_file: Path
    cluster_id: str
    config: Config
    options: LaunchOptions
    log_level: str
    shutdown_atexit: bool
    controller: Controller | None
    keeper: Process | None
    engines: dict[str, EngineSet]
    update_cluster_file: Callable[[], None]
    check_given_up: Callable[[], None]
    _changing: threading.RLock  # over the starting and the stopping of parts
    _deaths: keeping.Deaths | None = None
    restart: str
    _raises = False

    @contextmanager
    def _raising(self) -> Iterator[None]:
        """A context that ends with an exception when a part ends: nothing needs to be logged then."""
        before, self._raises = self._raises, True
        try:
            yield
        finally:
            self._raises = before

    def _warn_of(self, part: Launched) -> None:
        """Log how a part has ended that nobody had asked to."""
        if not self._raises or self.restart:
            log.warning("%s", part.failure())

    def _launch_controller(self, again: bool = False, world: WorldRequest | None = None) -> EngineSet | None:
        """Start the controller, and a world in the same job if there is one; return that."""
        request = ControllerRequest(
            directory=self.folder,
            cluster_id=self.cluster_id,
            config=self.config,
            options=self.options,
            log_level=self.log_level,
            lifeline=self.shutdown_atexit,
            again=again,
            environ=os.environ,
        )
        engine_set = None
        if world is None:
            controller = launchers.start_controller(request)
        else:
            controller, engine_set = launchers.start_together(request, world)
            self.engines[world.name] = engine_set
        self.controller = controller
        if self.shutdown_atexit and controller.command:
            self.keeper = Process.this()
        if self._deaths is None or not again:
            self._deaths = keeping.Deaths()
        self._deaths.started(time.monotonic())
        self.update_cluster_file()  # first: one whose file is gone has been stopped
        controller.process.watch(lambda: self._controller_ended(controller))
        return engine_set

    def _await_controller(self) -> None:
        """Wait until the controller takes connections; one in a job has to wait for its turn first."""
        assert self.controller is not None
        controller = self.controller

        def pause(seconds: float) -> bool:
            self.check_given_up()
            time.sleep(seconds)
            return local.controller_ready(self.folder)

        cluster_waiting.await_start(lambda: [controller], self.options.queue_timeout, pause=pause)
        local.await_controller(controller, self.folder, check=self.check_given_up)

    def _start_keeper(self) -> None:
        """Have the controller started again by a process that outlives this program.

        Only one on this machine: one in a job is lost with it.
        """
        assert self.controller is not None
        if not self.controller.command:
            return
        keeper = Process.start(
            cluster_keeper.argv(self.folder, self.cluster_file, self.controller.command),
            log=self.folder / "keeper.log",
            environ={**os.environ, **self.options.environment},
        )
        keeper.close()
        keeper.watch(lambda: None)  # which collects it
        self.keeper = keeper
        self.update_cluster_file()

    def _controller_ended(self, controller: Controller) -> None:
        """See to the end of a controller; called in the thread that has waited for that."""
        with self._changing:
            if files.is_stopping(self.folder, self.cluster_file) and controller is self.controller:
                controller.process.asked_to_stop = True  # by another program
            if controller.state != "failed":
                pass
            elif not controller.command:
                self._warn_of(controller)
            elif not self.shutdown_atexit:
                self._take_kept_controller(controller)
            elif not self._start_controller_again(controller):
                self._warn_of(controller)
        controller.ended.set()

    def _take_kept_controller(self, controller: Controller) -> None:
        """Go on with the controller that the keeper has started."""
        deadline = time.monotonic() + COMES_BACK
        while self.controller is controller and self.cluster_file.exists() and time.monotonic() < deadline:
            found = files.read(self.cluster_file)["controller"]
            if found is not None and found["pid"] != controller.pid:
                self.controller = Controller(attach(found))
                return
            time.sleep(0.05)
        self._warn_of(controller)

    def _start_controller_again(self, controller: Controller) -> bool:
        deaths = self._deaths
        if self.controller is not controller or deaths is None or not local.controller_ready(self.folder):
            return False  # it was replaced, or has never been there
        if not deaths.once_more(time.monotonic()):
            log.error("the controller is given up: %s", deaths)
            keeping.give_up(self.folder)
            return False
        level = logging.WARNING if deaths.count == 1 else logging.INFO
        log.log(level, "%s; it is started again, and what runs goes on", controller.end())
        controller.process.close()
        try:
            self._launch_controller(again=True)
        except (LaunchError, OSError) as error:
            log.error("the controller could not be started again: %s", error)
            keeping.give_up(self.folder)
            if self.controller is not controller and self.controller is not None:
                self.controller.stop()
            return False
        if files.is_stopping(self.folder, self.cluster_file):
            self.controller.stop()  # which has been overlooked by who has stopped the cluster just now
        return True

    def _stop_keeping(self) -> None:
        """Have nobody start the controller again; one that is just being started is waited for."""
        files.mark_stopping(self.folder)
        if self.keeper is not None and self.keeper.pid == os.getpid():
            return
        deadline = time.monotonic() + COMES_BACK
        while self.controller is not None and self.keeper is not None and self.keeper.running:
            try:
                found = files.read(self.cluster_file)["controller"]
            except FileNotFoundError:
                return
            if found is not None and found.get("pid") != self.controller.pid:
                self.controller = Controller(attach(found))
            if self.controller.running or time.monotonic() > deadline:
                return
            time.sleep(0.02)

    def _tell_to_stop(self) -> bool:
        """Tell a controller to stop that signals cannot reach, or not alone; return whether it was told."""
        assert self.controller is not None
        process = self.controller.process
        if not isinstance(process, Job):
            if self.host == socket.gethostname():
                return False
            self.connect_client_sync().shutdown(hub=True)
            return True
        if process.has_own_signals or process.what_it_waits_for() or not process.running:
            return False
        if files.is_of_script(self.folder):
            return False  # the script is to hear of it first
        try:
            with self.connect_client_sync(timeout=TOLD) as client:
                client.shutdown(hub=True, block=True)
        except (IPythonError, RuntimeError, TimeoutError) as error:
            log.warning("the controller cannot be told to stop, and is ended: %s", error)
            return False
        return True

    def _await_new_controller(self) -> None:
        """Wait until one that is just being started again has said where it is."""
        controller = self._living_controller()
        if controller is None or self._deaths is None or not self._deaths.count:
            return
        deadline = time.monotonic() + local.CONTROLLER_START
        while controller.running and time.monotonic() < deadline:
            if connection_file.read(self.folder / connection_file.NAMES["client"]).pid == controller.pid:
                return
            time.sleep(0.02)

    def _living_controller(self) -> Controller | None:
        """Return the controller, if it is there or is just being started again."""
        deadline = time.monotonic() + COMES_BACK
        while True:
            controller = self.controller
            if controller is None or controller.process.asked_to_stop:
                return None
            if controller.running:
                return controller
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
