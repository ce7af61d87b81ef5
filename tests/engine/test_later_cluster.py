"""Engines of a job whose cluster has ended, when another one is in the same folder by now."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mpiparallel import connection_file
from mpiparallel.config import Config
from mpiparallel.engine import __main__ as engine


@pytest.mark.parametrize("there", [True, False])
def test_engines_do_not_join_the_cluster_that_came_later(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, script = tmp_path / "engine.json", tmp_path / "engines-1.sbatch"
    path.touch()
    if there:
        script.touch()
    monkeypatch.setattr(connection_file, "read", lambda path: object())
    monkeypatch.setattr(engine, "SEEN_WITHIN", 0.1)
    monkeypatch.setenv("MPIPARALLEL_SCRIPT", str(script))
    options = argparse.Namespace(connection_file=str(path), engine_set="1", first_id=None, timeout=1.0)
    line, trouble = engine._line(options, Config())
    assert (line is not None) == there
    assert trouble == ("" if there else f"the cluster has ended; that of {path} came after it")
