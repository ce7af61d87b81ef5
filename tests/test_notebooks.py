"""Every notebook of the examples runs in a kernel from first to last cell, and shows what it should."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from helpers import processes_of, wait_until
from nbclient import NotebookClient
from notebook.pages import overwritten, plain
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "examples" / "notebooks"


class Executed:
    """A notebook that has run.

    Parameters
    ----------
    content
        As nbformat has it.
    """

    def __init__(self, content: Any) -> None:
        self.cells = [Cell(one) for one in content.cells if one.cell_type == "code"]

    def cell(self, text: str) -> Cell:
        """Return the one cell whose source has `text`."""
        found = [one for one in self.cells if text in one.source]
        assert len(found) == 1, f"{len(found)} cells have {text!r}"
        return found[0]


class Cell:
    """One cell and its outputs."""

    def __init__(self, content: Any) -> None:
        self.source = content.source
        self.outputs = content.outputs
        self.may_fail = "raises-exception" in content.metadata.get("tags", [])

    @property
    def errors(self) -> list[str]:
        return [f"{one.ename}: {one.evalue}" for one in self.outputs if one.output_type == "error"]

    def text(self, stream: str = "stdout") -> str:
        """Return what was printed, as it is seen."""
        parts = [one.text for one in self.outputs if one.output_type == "stream" and one.name == stream]
        return overwritten(plain("".join(parts)))

    def printed_by(self, stream: str = "stdout") -> dict[int, list[str]]:
        """Return the lines that each engine has printed, of cells on several engines."""
        lines: dict[int, list[str]] = {}
        speakers: list[int] = []
        for line in self.text(stream).splitlines():
            label = re.fullmatch(r"\[(\w+):([\d, -]+)\] ?(.*)", line)
            if label and label[1] == stream:
                speakers = listed(label[2])
                line = label[3]
            for engine in speakers if line else ():
                lines.setdefault(engine, []).append(line)
        return lines

    @property
    def tracebacks(self) -> list[str]:
        return [plain("\n".join(one.traceback)) for one in self.outputs if one.output_type == "error"]

    @property
    def shown(self) -> list[str]:
        """All that was printed, and tracebacks."""
        return [self.text(), self.text("stderr"), *self.tracebacks]

    @property
    def displayed(self) -> list[str]:
        """What was printed and displayed, in order, as text."""
        return [one.text if one.output_type == "stream" else one.data["text/plain"] for one in self.outputs]

    def results_by_engine(self) -> dict[int, str]:
        """Return the results that engines have shown as ``Out[0-3:7]: ...``."""
        results: dict[int, str] = {}
        texts = [one.data.get("text/plain", "") for one in self.outputs if one.output_type == "display_data"]
        for text in [*texts, *self.text().splitlines()]:
            label = re.fullmatch(r"Out\[([\d, -]+)(?::\d+)?\]:\s(.*)", text, re.DOTALL)
            for engine in listed(label[1]) if label else ():
                assert engine not in results, f"engine {engine} shows two results"
                results[engine] = label[2].strip()
        return results

    @property
    def result(self) -> str:
        """The text of the cell's own result."""
        (found,) = [one.data["text/plain"] for one in self.outputs if one.output_type == "execute_result"]
        return found

    @property
    def pictures(self) -> list[np.ndarray]:
        """The PNGs among the outputs, as arrays of height, width and three colours."""
        bundles = [one.data for one in self.outputs if "data" in one]
        return [pixels(one["image/png"]) for one in bundles if "image/png" in one]

    def pictures_by_engine(self) -> dict[int, np.ndarray]:
        """Return one picture of each engine that has shown one below its label."""
        found: dict[int, np.ndarray] = {}
        speakers: list[int] = []
        for one, text in zip(self.outputs, self.displayed, strict=True):
            labels = re.findall(r"^\[output:([\d, -]+)\]$", text, re.MULTILINE)
            speakers = listed(labels[-1]) if labels else speakers
            if "image/png" in one.get("data", {}):
                assert speakers and not set(speakers) & set(found), f"{speakers} after {list(found)}"
                found.update(dict.fromkeys(speakers, pixels(one.data["image/png"])))
        return found


def listed(ranges: str) -> list[int]:
    """Return the numbers that ``0-2, 4`` stands for."""
    numbers: list[int] = []
    for piece in ranges.split(","):
        low, _, high = piece.strip().partition("-")
        numbers.extend(range(int(low), int(high or low) + 1))
    return numbers


def said_by(engines: Iterable[int], line: str) -> dict[int, list[str]]:
    """Return what `Cell.printed_by` returns when each of the engines has printed one line, the same."""
    return {engine: [line] for engine in engines}


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Mark the pixels that have about this colour."""
    return abs(picture - colour).max(axis=-1) < 10


def middle_of(where: np.ndarray) -> np.ndarray:
    """Return where in a picture, from 0 to 1 (down, right), the marked pixels have their middle."""
    assert np.count_nonzero(where) > 20, "no such pixels in the picture"
    return np.argwhere(where).mean(axis=0) / where.shape


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Executed]]:
    """Runs a notebook, once for all tests, and sees that its cluster is gone at its end."""
    known: dict[str, Executed] = {}
    folder = tmp_path_factory.mktemp("notebooks")

    def execute(name: str) -> Executed:
        if name not in known:
            content = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
            client = NotebookClient(
                content, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
            )
            state = folder / "state"
            own = {"MPIPARALLEL_STATE": str(state), "IPYTHONDIR": str(folder / "ipython")}
            client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), **own})
            assert wait_until(lambda: not processes_of(state)), processes_of(state)
            known[name] = Executed(content)
        return known[name]

    yield execute


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_file_is_clean(path: Path) -> None:
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    assert set(content.metadata) == {"kernelspec", "language_info"}
    assert content.metadata.kernelspec.name == "python3"
    for cell in content.cells:
        assert set(cell.metadata) <= {"tags"}
        assert cell.source.strip() == cell.source != ""
        assert max(map(len, cell.source.splitlines())) <= 110 or cell.cell_type == "markdown"
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert content.cells[0].source.startswith("# ")


def test_all_notebooks_are_tested() -> None:
    tested = Path(__file__).read_text()
    assert [path.name for path in NOTEBOOKS.glob("*.ipynb") if f'run("{path.stem}")' not in tested] == []


# ---------------------------------------------------------------- tutorial

RESULTS = """
    rc.ids -> [0, 1, 2, 3]
    mul(5, 6) -> 30
    rc[0].apply(mul, 5, 6) -> 30
    rc[:].apply(mul, 5, 6) -> [30, 30, 30, 30]
    list(map(mul, range(1, 10), range(2, 11))) -> [2, 6, 12, 20, 30, 42, 56, 72, 90]
    list(dview.map(mul, range(1, 10), range(2, 11))) -> [2, 6, 12, 20, 30, 42, 56, 72, 90]
    list(lview.map(mul, range(1, 10), range(2, 11))) -> [2, 6, 12, 20, 30, 42, 56, 72, 90]
    dview.pull("a") -> [1.032, 1.032, 1.032, 1.032]
    dview.pull("b", targets=0) -> 3453
    dview.pull(("a", "b")) -> [[1.032, 3453], [1.032, 3453], [1.032, 3453], [1.032, 3453]]
    ar.get() -> [1.032, 1.032, 1.032, 1.032]
    dview["a"] -> [range(0, 4), range(4, 8), range(8, 12), range(12, 16)]
    dview.gather("a") -> [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
"""


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_tutorial(run: Callable[[str], Executed]) -> None:
    notebook = run("tutorial")
    assert [cell.source for cell in notebook.cells if cell.errors and not cell.may_fail] == []
    results = {cell.source: cell for cell in notebook.cells}
    for line in RESULTS.strip().splitlines():
        source, _, value = line.strip().partition(" -> ")
        assert re.sub(r"\s+", " ", results[source].result) == value, source
    views = ["[0, 1]", "[2, 3]", "[0, 2]", "[1, 3]"]
    assert notebook.cell("first_half =").text().splitlines() == [f"<DirectView {view}>" for view in views]
    assert eval(notebook.cell("dview.block = False").result) == list(range(32))
    assert notebook.cell("(C_local == C_remote)").result in ("np.True_", "True")

    here = eval(results["summary()"].result)
    there = eval(results["rc[0].apply(summary)"].result)
    everywhere = eval(results["rc[:].apply(summary)"].result)
    assert here["hostname"] == there["hostname"] and everywhere[0] == there
    assert notebook.cell("d = _").result == str(there["pid"])
    pids = [one["pid"] for one in everywhere]
    assert len({here["pid"], *pids}) == 5
    assert eval(results["getpid()"].result) == pids


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_tutorial_cells_on_engines(run: Callable[[str], Executed]) -> None:
    notebook = run("tutorial")
    everybody = range(4)
    version = notebook.cell("--local\nnp.__version__")
    assert version.result == repr(np.__version__)
    assert version.results_by_engine() == dict.fromkeys(everybody, repr(np.__version__))

    pids = eval(next(one for one in notebook.cells if one.source == "getpid()").result)
    said = notebook.cell('print("on", socket.gethostname())').printed_by()
    hosts = {lines[1] for lines in said.values()}
    assert said == {engine: [str(pids[engine]), *hosts] for engine in everybody}

    drawn = notebook.cell("plt.imshow(a").pictures_by_engine()
    assert sorted(drawn) == [0, 1] and not np.array_equal(drawn[0], drawn[1])
    for picture in drawn.values():
        colours = picture[np.ptp(picture, axis=-1) > 30]
        assert len(np.unique(colours, axis=0)) > 50  # a hundred random numbers

    assert "importing matplotlib.pyplot on engine(s)" in notebook.cell("sync_imports").text()
    versions = notebook.cell("np.__file__")
    assert versions.text().splitlines()[0] == f"{np.__version__} {np.__file__}"
    assert versions.printed_by() == said_by(everybody, f"{np.__version__} {np.__file__}")
    shells = notebook.cell("!echo").printed_by()
    assert shells == {engine: [f"a shell of engine {engine}"] for engine in everybody}
    assert re.search(r"per loop \(mean .* 3 runs, 20 loops each", notebook.cell("%timeit").text())


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_tutorial_ways_to_send_cells(run: Callable[[str], Executed]) -> None:
    notebook = run("tutorial")
    everybody = range(4)
    slept = notebook.cell("%pxresult")
    assert slept.printed_by() == {engine: [f"engine {engine} has slept"] for engine in everybody}
    assert slept.results_by_engine() == {engine: str(engine**2) for engine in everybody}
    counted = notebook.cell("-o answers")
    speaking = re.findall(r"engine (\d) counts|Out\[(\d):", "".join(counted.displayed))
    assert ["".join(one) for one in speaking] == list("00112233")
    assert counted.printed_by() == {engine: [f"engine {engine} counts"] for engine in everybody}
    assert counted.results_by_engine() == {engine: str(10 * engine) for engine in everybody}
    assert "AsyncResult" in next(one for one in notebook.cells if one.source == "answers").result
    assert notebook.cell("only two of us").printed_by() == said_by((0, 1), "only two of us")
    assert notebook.cell("print(where)").printed_by() == said_by(everybody, "sent without %%px")

    failed = notebook.cell("invert(engine_id // 2)")
    assert failed.results_by_engine() == {2: "1.0", 3: "1.0"}
    shown = "".join(failed.shown)
    assert shown.count("return 1 / x") == 2  # one traceback, in which invert is defined and called
    # Both engines are named once: together, unless one was later than the other by more than a moment.
    assert sorted(listed(", ".join(re.findall(r"\[([\d, -]+):execute\]", shown)))) == [0, 1]
    assert notebook.cell("still here").printed_by() == said_by(everybody, "still here")
    sums = {rank: [f"rank {rank} of 4 knows the sum of all ids: 6"] for rank in everybody}
    assert notebook.cell("comm.allreduce(engine_id)").printed_by() == sums


# ---------------------------------------------------------------- MPI


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_mpi(run: Callable[[str], Executed]) -> None:
    notebook = run("mpi")
    assert [cell.source for cell in notebook.cells if cell.errors and not cell.may_fail] == []
    said = notebook.cell("Get_processor_name").printed_by()
    assert [lines[0].partition(" on ")[0] for lines in map(said.get, range(4))] == [
        f"rank {rank} of 4" for rank in range(4)
    ]
    points = {rank: [f"points {30 * rank} to {30 * rank + 29}"] for rank in range(4)}
    assert notebook.cell('print("points"').printed_by() == points

    u = np.where(abs((np.arange(120) + 0.5) / 120 - 0.5) < 0.1, 100.0, 0.0)

    def step(many: int) -> None:
        for _ in range(many):
            wide = np.pad(u, 1, mode="edge")
            u[:] += 0.4 * (wide[:-2] - 2 * u + wide[2:])

    step(400)
    (heat,) = {line for lines in notebook.cell("heat = ").printed_by().values() for line in lines}
    assert heat == f"heat {u.sum():.6f}, hottest point {u.max():.3f}"
    (curves,) = notebook.cell("view.gather").pictures
    for colour in [(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40)]:
        assert np.count_nonzero(near(curves, colour)) > 100
    # Heat spreads evenly to both sides: the plot of each moment is its own mirror image.
    axes = np.argwhere(curves.max(axis=-1) < 40)
    (top, left), (bottom, right) = axes.min(axis=0), axes.max(axis=0)
    red = near(curves[top:bottom, left:right], (214, 39, 40))
    assert abs(middle_of(red[red.shape[0] // 3 :])[1] - 0.5) < 0.08

    rounds = 0
    while np.ptp(u) > 0.5:
        step(200)
        rounds += 1
    even = f"even within half a degree after {rounds} rounds"
    assert notebook.cell("rounds = 0").printed_by() == said_by(range(4), even)
    total = repr(np.histogram(u, bins=5, range=(19.5, 20.5))[0])
    assert notebook.cell("histogram, edges").results_by_engine() == dict.fromkeys(range(4), total)
    pair = {rank: [f"rank {rank} of 2 among the engines [0, 1]"] for rank in (0, 1)}
    assert notebook.cell("members = ").printed_by() == pair


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_mpi_what_hangs_is_told(run: Callable[[str], Executed]) -> None:
    notebook = run("mpi")
    failed = "".join(notebook.cell("my part of the input").shown)
    assert failed.index("[2:execute] rank 2 on ") < failed.index(
        "ValueError: my part of the input is missing"
    )
    # Who only waited is named in a line, later ones in another.
    victims = re.findall(r"engines? ([\d, -]+) w\w+ waiting for it in allreduce", failed)
    assert sorted(listed(", ".join(victims))) == [0, 1, 3]
    assert notebook.cell("are here").printed_by() == said_by(range(4), "all 4 are here")

    where = notebook.cell("%pxwhere").result
    assert re.search(r"engine 0 .*cell line 4: time\.sleep\(30\)", where)
    assert re.search(r"engines 1-3 .*Barrier", where)
    interrupted = "".join(notebook.cell("rc.interrupt()").shown)
    assert re.search(r"\[0:execute\] rank 0 on", interrupted) and "KeyboardInterrupt" in interrupted
    assert "mpiparallel/" not in interrupted

    stuck = "".join(notebook.cell("got = comm.recv").shown)
    assert stuck.count("Traceback") == 1 and "rank 0 waits for rank 1, rank 1 for rank 0" in stuck
    assert sorted(listed(", ".join(re.findall(r"\[([\d, -]+):execute\]", stuck)))) == [0, 1]
    greeted = notebook.cell("comm.sendrecv").results_by_engine()
    assert greeted == dict.fromkeys((0, 1), "'hello'")


# ---------------------------------------------------------------- overview


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_overview(run: Callable[[str], Executed]) -> None:
    notebook = run("overview")
    assert [cell.errors for cell in notebook.cells if cell.errors] == []
    assert notebook.cell("nengines = len(rc)").result == "4"
    assert notebook.cell("rc.ids").result == "[0, 1, 2, 3]"
    assert notebook.cell("print(dvall)").text() == "<DirectView [0, 1, 2, 3]>\n"
    assert notebook.cell("type(dvall)").result.endswith(".DirectView")

    here, there = [cell for cell in notebook.cells if 'print("process", os.getpid()' in cell.source]
    pattern = r"process (\d+) on (\S+)"
    (process,) = re.findall(pattern, here.text())
    lines = there.printed_by()
    assert sorted(lines) == [0, 1, 2, 3] and all(len(said) == 1 for said in lines.values())
    elsewhere = [re.fullmatch(pattern, said[0]).groups() for said in lines.values()]
    assert len({process, *elsewhere}) == 5 and {host for _, host in elsewhere} == {process[1]}

    names = [f"'hills-{i:02}.png'" for i in range(16)]
    assert re.findall(r"'[^']+'", notebook.cell("tempfile.mkdtemp").result) == names
    for way in ("sconverted = ", "pconverted = ", "lbconverted = "):
        assert "Wall time:" in notebook.cell(way).text()
    assert notebook.cell("array_equal").result == "True"

    (picture,) = notebook.cell("plt.imread").pictures
    rows = np.flatnonzero((picture.min(axis=-1) < 240).mean(axis=1) > 0.5)
    colours, grey = np.split(picture[rows], [int(np.argmax(np.diff(rows))) + 1])
    assert np.ptp(grey, axis=-1).max() < 3 and np.ptp(colours, axis=-1).mean() > 40
    height = min(len(colours), len(grey)) - 2  # their edges may lie between pixels
    assert abs(colours[:height] @ [0.2125, 0.7154, 0.0721] - grey[:height, :, 0]).mean() < 5

    (bars,) = notebook.cell("ax.barh").pictures
    for half in np.array_split(bars, 2, axis=1):
        for colour in [(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40)]:
            assert np.count_nonzero(near(half, colour)) > 20


# ---------------------------------------------------------------- image gallery


def alike(picture: np.ndarray, wanted: np.ndarray) -> float:
    """Return how well brightness in a figure goes with an array that is drawn in it: 1.0 is perfectly."""
    coloured = np.argwhere(np.ptp(picture, axis=-1) > 25)
    (top, left), (bottom, right) = coloured.min(axis=0), coloured.max(axis=0) + 1
    drawn = Image.fromarray(picture[top:bottom, left:right].sum(axis=-1).astype("f4"))
    drawn = np.asarray(drawn.resize(wanted.shape[::-1]))
    return float(np.corrcoef(drawn.ravel(), wanted.ravel())[0, 1])


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_image_gallery(run: Callable[[str], Executed]) -> None:
    notebook = run("image_gallery")
    assert [cell.errors for cell in notebook.cells if cell.errors] == []
    assert notebook.cell("view.imap").text() == "12 pictures\n"

    # The same pictures, made here: pixel by pixel what the page shows.
    names: dict[str, Any] = {}
    exec(notebook.cell("def newton_picture").source, names)
    exec(notebook.cell("gallery = {}").source, names)
    tiles = [names["newton_picture"](roots)[::2, ::2] for roots in names["gallery"].values()]
    (sheet,) = notebook.cell("Image.fromarray(sheet)").pictures
    assert (sheet == np.vstack([np.hstack(tiles[:6]), np.hstack(tiles[6:])])).all()
    (figure,) = notebook.cell("plt.subplots(3, 4").pictures
    for row, line in enumerate(np.array_split(figure, 3)):
        for column, part in enumerate(np.array_split(line, 4, axis=1)):
            ours = tiles[4 * row + column].reshape(-1, 3)
            mean = part[np.ptp(part, axis=-1) > 25].mean(axis=0)
            assert abs(mean - ours[np.ptp(ours, axis=-1) > 25].mean(axis=0)).max() < 12, (row, column)

    lines = notebook.cell('"rows, mean count"').printed_by()
    assert {engine: len(said) for engine, said in lines.items()} == dict.fromkeys(range(4), 1)
    assert all(said[0].startswith("90 rows, mean count ") for said in lines.values())

    z = np.linspace(-1.6, 1.6, 520)[None, :] + 1j * np.linspace(1.1, -1.1, 360)[:, None]
    count = np.zeros(z.shape)
    for _ in range(100):
        inside = abs(z) < 2
        z[inside] = z[inside] ** 2 + (-0.79 + 0.15j)
        count[inside] += 1
    (julia,) = notebook.cell('direct.gather("count")').pictures
    assert alike(julia, np.log1p(count)) > 0.9
    strips = notebook.cell("aspect=").pictures_by_engine()
    assert sorted(strips) == [0, 1] and len(notebook.cell("aspect=").pictures) == 2
    parts = [np.log1p(count)[90 * engine : 90 * (engine + 1)] for engine in (0, 1)]
    likeness = [[alike(strips[engine], part) for part in parts] for engine in (0, 1)]
    assert min(likeness[0][0], likeness[1][1]) > max(0.8, likeness[0][1], likeness[1][0])


# ---------------------------------------------------------------- Monte Carlo


def black_scholes(strike: float, sigma: float) -> float:
    """Return the price of the notebook's European call."""
    up = (math.log(100 / strike) + 0.05 + sigma**2 / 2) / sigma
    below = [(1 + math.erf(x / math.sqrt(2))) / 2 for x in (up, up - sigma)]
    return 100 * below[0] - strike * math.exp(-0.05) * below[1]


@pytest.mark.mpi
@pytest.mark.anympi
@pytest.mark.timeout(400)
def test_monte_carlo_options(run: Callable[[str], Executed]) -> None:
    notebook = run("monte_carlo_options")
    assert [cell.errors for cell in notebook.cells if cell.errors] == []

    rows = [list(map(float, line.split())) for line in notebook.cell("DataFrame").result.splitlines()[2:]]
    strikes, sigmas = np.linspace(90, 110, 9), np.linspace(0.1, 0.4, 7)
    exact = np.array([[black_scholes(strike, sigma) for sigma in sigmas] for strike in strikes])
    assert [row[0] for row in rows] == list(strikes)
    assert abs(np.array(rows)[:, 1:] - exact).max() < 1.5

    mean, most = map(float, re.findall(r"by (\S+)", notebook.cell("black_scholes").text()))
    assert mean < 2 and most < 5

    (picture,) = notebook.cell("contourf").pictures
    dearest = {"european call": (1, 1), "european put": (0, 1), "asian call": (1, 1), "asian put": (0, 1)}
    panels = np.array_split(picture, 4, axis=1)
    for panel, (low, wild) in zip(panels, dearest.values(), strict=True):
        plane = panel[:, : int(0.7 * panel.shape[1])]  # without the bar of colours
        coloured, green = np.ptp(plane, axis=-1) > 40, plane[..., 1]  # viridis has more green the higher
        dark, bright = middle_of(coloured & (green < 70)), middle_of(coloured & (green > 170))
        assert ((bright - dark > 0) == (low, wild)).all()

    (curve,) = notebook.cell("round_of").pictures
    assert np.count_nonzero(near(curve, (31, 119, 180))) > 100  # matplotlib's first colour
    price, unsure = map(float, notebook.cell("round_of").text().split(" +- "))
    assert abs(price - 5.85) < 5 * unsure < 0.5
