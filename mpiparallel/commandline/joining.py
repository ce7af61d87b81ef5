"""Engines that join a cluster of another host: what ``mpiparallel engines`` does in a batch job.

The cluster's own record is left to the host that started it. The engines live as long as this command.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from mpiparallel import cluster_engines, connection_file
from mpiparallel.client.client import Client
from mpiparallel.commandline import clusters, exits
from mpiparallel.commandline.printing import fail, n_engines, say
from mpiparallel.config import Config
from mpiparallel.launch import launchers
from mpiparallel.launch.launched import EngineSet
from mpiparallel.launch.requests import WorldRequest
from mpiparallel.launchoptions import LaunchOptions

LEAVES = 3.0  # seconds for engines that were sent home


def join(folder: Path, n: int, options: LaunchOptions, config: Config, *, stay: bool = True) -> int:
    """Start engines for the cluster of `folder`; stay until they have ended, or are told to by a signal."""
    name = f"{int(time.time())}-{secrets.token_hex(2)}"
    with clusters.signals_interrupt(), Client(str(folder / connection_file.NAMES["client"])) as client:
        engine_set = launchers.start_world(
            WorldRequest(directory=folder, name=name, n=n, config=config, options=options, environ=os.environ)
        )
        try:
            cluster_engines.wait_for_sets(
                client,
                lambda: [engine_set],
                lambda one: not one.running,
                options.engine_timeout,
                options.queue_timeout,
            )
            say(f"{n_engines(n)} more; {len(client.ids)} in all")
            if not stay:
                return exits.DONE
            while not engine_set.process.wait(60.0):
                pass
        except KeyboardInterrupt:
            say("stopping")
            _send_home(client, engine_set)
            return exits.DONE
        except BaseException:
            engine_set.stop()
            raise
        if engine_set.process.exit_code:
            return fail(engine_set.failure(), exits.FAILED)
        say("the engines have ended")
        return exits.DONE


def _send_home(client: Client, engine_set: EngineSet) -> None:
    engines = cluster_engines.ids_of(client, [engine_set.name])
    if engines:
        client.shutdown(engines, block=True)
    engine_set.process.wait(LEAVES)
    engine_set.stop()
