"""The launchers by name: which module starts worlds, and which controllers.

Each is a module with ``start_world(WorldRequest) -> EngineSet`` or ``start_controller(ControllerRequest) ->
Controller``. It is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launch.requests import ControllerRequest, WorldRequest

_MODULES = {
    "mpi": "local",
    "srun": "srun",
    "ssh": "ssh",
    "slurm": "slurm",
    "pbs": "pbs",
    "lsf": "lsf",
}


def start_together(controller: ControllerRequest, world: WorldRequest) -> tuple[Controller, EngineSet]:
    """Start a controller and a world in one job of a batch system.

    Raises
    ------
    LaunchError
        If it cannot be started; the message says what to do.
    """
    from mpiparallel.launch import submission

    started = start_controller(replace(controller, world=world))
    return started, submission.in_same_job(started, world)


def start_world(request: WorldRequest) -> EngineSet:
    """Start a world by the launcher that its options name.

    Raises
    ------
    LaunchError
        If it cannot be started; the message says what to do.
    """
    module = importlib.import_module(f"mpiparallel.launch.{_MODULES[request.options.engines]}")
    engine_set: EngineSet = module.start_world(request)
    return engine_set


def start_controller(request: ControllerRequest) -> Controller:
    """Start a controller by the launcher that its options name.

    Raises
    ------
    LaunchError
        If it cannot be started; the message says what to do.
    """
    module = importlib.import_module(f"mpiparallel.launch.{_MODULES[request.options.controller]}")
    controller: Controller = module.start_controller(request)
    return controller
