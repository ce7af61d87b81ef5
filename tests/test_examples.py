"""Every example runs as its docstring says, with real engines, and prints what it should."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import processes_of, wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMAND = [sys.executable, "-m", "mpiparallel.cli"]

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]


@pytest.fixture
def environ(tmp_path):
    """An environment whose clusters nobody else sees; at the end none of them may have left a process."""
    values = {**os.environ, "MPIPARALLEL_STATE": str(tmp_path), "MPIPARALLEL_NONINTERACTIVE": "1"}
    yield values
    assert wait_until(lambda: not processes_of(tmp_path)), processes_of(tmp_path)


def run(*words: object, environ: dict[str, str]) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(
        [str(word) for word in words], env=environ, capture_output=True, text=True, timeout=200, cwd="/"
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def default_cluster(environ):
    """Four engines under the default profile, as ``mpiparallel start`` makes them."""
    run(*COMMAND, "start", "-n", 4, "--daemonize", environ=environ)
    try:
        yield
    finally:
        run(*COMMAND, "stop", environ=environ)


def test_monte_carlo_pi(environ):
    printed = run(sys.executable, EXAMPLES / "monte_carlo_pi.py", environ=environ)
    rows = [line.split() for line in printed.splitlines() if re.match(r"\s+[\d,]+\s+3\.", line)]
    assert [row[0] for row in rows] == [f"{8_000_000 * i:,}" for i in range(1, 7)]
    assert abs(float(rows[-1][1]) - math.pi) < 6 * float(rows[-1][3])
    assert "pi is about 3.14" in printed


def test_mpi_allreduce(environ):
    printed = run(sys.executable, EXAMPLES / "mpi_allreduce.py", environ=environ)
    norm = f"{math.sqrt(sum(i * i for i in range(1, 101))):.6f}"
    assert re.findall(r"rank (\d): (.*)", printed) == [(str(rank), norm) for rank in range(4)]
    error = float(re.search(r"^  (\S+) \(h\^2/12", printed, re.MULTILINE)[1])
    assert 0 < error < 1e-5


def test_demo(environ):
    printed = run(*COMMAND, "run", "-n", 4, EXAMPLES / "demo.py", environ=environ)
    ranks = re.findall(r"rank (\d): process (\d+), rows (\d+) to (\d+)", printed)
    assert [(rank, first, last) for rank, _, first, last in ranks] == [
        ("0", "0", "191"), ("1", "192", "383"), ("2", "384", "575"), ("3", "576", "767")
    ]  # fmt: skip
    assert len({pid for _, pid, _, _ in ranks}) == 4
    heat = [float(text.replace(",", "")) for text in re.findall(r"by comm.allreduce: (\S+)", printed)]
    assert len(heat) == 2 and math.isclose(*heat, rel_tol=1e-3)  # almost none reaches the rim
    assert "@@@" in printed
    for what in ("a call on all engines", "scatter", "gather", "push to all"):
        assert what in printed


def test_demo_with_other_numbers_of_ranks(environ):
    printed = run(*COMMAND, "run", "-n", 3, EXAMPLES / "demo.py", environ=environ)
    assert "3 MPI ranks share a plate" in printed and "rows 512 to 767" in printed


def test_overview(environ):
    with default_cluster(environ):
        printed = run(sys.executable, EXAMPLES / "overview.py", environ=environ)
    assert "engines: 4 with the ids [0, 1, 2, 3]" in printed
    assert "a view of all: <DirectView [0, 1, 2, 3]> of DirectView" in printed
    assert "dvall.map_sync:      16 pictures" in printed
    assert "the same pictures: True" in printed


TUTORIAL = """
    rc.ids -> [0, 1, 2, 3]
    len(rc) -> 4
    rc[0] -> <DirectView 0>
    rc[0, 1, 2, 3] -> <DirectView [0, 1, 2, 3]>
    rc[0:2] -> <DirectView [0, 1]>
    rc[1::2] -> <DirectView [1, 3]>
    mul(5, 6) -> 30
    rc[0].apply(mul, 5, 6) -> 30
    rc[:].apply(mul, 5, 6) -> [30, 30, 30, 30]
    list(dview.map(mul, range(1, 10), range(2, 11))) -> [2, 6, 12, 20, 30, 42, 56, 72, 90]
    dview.pull('a') -> [1.032, 1.032, 1.032, 1.032]
    dview.pull('b', targets=0) -> 3453
    dview.pull(('a', 'b')) -> [[1.032, 3453], [1.032, 3453], [1.032, 3453], [1.032, 3453]]
    ar = dview.pull('a', block=False); ar.get() -> [1.032, 1.032, 1.032, 1.032]
    dview.scatter('a', range(16)) -> None
    dview['a'] -> [range(0, 4), range(4, 8), range(8, 12), range(12, 16)]
    dview.gather('a') -> [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    (pmul(A, A) == A * A).all() -> True
    rc[0].apply(lambda: json.decoder.__name__) -> json.decoder
"""


def test_tutorial(environ):
    with default_cluster(environ):
        printed = run(sys.executable, EXAMPLES / "tutorial.py", environ=environ)
    lines = {re.sub(r" +-> ", " -> ", line) for line in printed.splitlines()}
    missing = [line.strip() for line in TUTORIAL.strip().splitlines() if line.strip() not in lines]
    assert missing == [], printed
    assert f"dview.gather('a').get() -> {list(range(32))}" in re.sub(r" +-> ", " -> ", printed)
    assert "importing json.decoder on engine(s)" in printed


def run_with_engines(environ, name, *words):
    return run(*COMMAND, "run", "-n", 4, EXAMPLES / name, *words, environ=environ)


def test_greyscale(environ, tmp_path):
    picture = tmp_path / "before-and-after.png"
    printed = run_with_engines(environ, "greyscale.py", picture)
    assert "the same pictures: True" in printed
    for title in ("one after the other:", "dview.map_sync:", "lview.map_sync:"):
        assert re.search(rf"{re.escape(title)} +16 pictures in +[\d.]+ s", printed)
    written = picture if picture.exists() else picture.with_suffix(".ppm")
    assert str(written) in printed and written.stat().st_size > 10_000
    written.unlink()


def test_parameter_sweep(environ):
    printed = run_with_engines(environ, "parameter_sweep.py")
    found, tried = map(int, re.search(r"(\d+) of (\d+) pendulums turned over", printed).groups())
    assert found == 5 and 5 <= tried <= 300
    assert len(re.findall(r"force \d\.\d+, frequency \d\.\d+: \d+ turns", printed)) == 5


def test_dependency_graph(environ):
    printed = run_with_engines(environ, "dependency_graph.py")
    assert re.search("A year, printed by engine [02]", printed)
    assert len(re.findall("where its data was: True", printed)) == 4
    assert "the report began after all of them: True" in printed
    assert "after a failure: ImpossibleDependency" in printed and "if it fails: CLEAN UP" in printed


def test_gangs(environ):
    printed = run_with_engines(environ, "gangs.py")
    rows = re.findall(r"(\d+) points on (\d) +\[([\d, ]+)\] +([\d.]+)", printed)
    assert len(rows) == 12 and all(len(engines.split(",")) == int(ranks) for _, ranks, engines, _ in rows)
    assert len({(points, heat) for points, _, _, heat in rows}) == 3  # however many ranks share it
    assert "a map of gangs: [19.0, 39.0, 59.0, 79.0]" in printed


@pytest.mark.anympi
def test_grid_search(environ):
    pytest.importorskip("sklearn")
    printed = run_with_engines(environ, "grid_search.py")
    tasks = int(re.search(r"12 candidates, 3 folds: [\d.]+ s, (\d+) tasks on the engines", printed)[1])
    assert tasks >= 4
    assert "the same as without engines: True" in printed


def test_every_example_is_tested():
    tested = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in tested] == []
