"""Every notebook of the examples runs in a kernel from first to last cell, and shows what it should."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Callable, Iterator
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
    def result(self) -> str:
        """The text of the cell's own result."""
        (found,) = [one.data["text/plain"] for one in self.outputs if one.output_type == "execute_result"]
        return found

    @property
    def pictures(self) -> list[np.ndarray]:
        """The PNGs among the outputs, as arrays of height, width and three colours."""
        bundles = [one.data for one in self.outputs if "data" in one]
        return [pixels(one["image/png"]) for one in bundles if "image/png" in one]


def listed(ranges: str) -> list[int]:
    """Return the numbers that ``0-2, 4`` stands for."""
    numbers: list[int] = []
    for piece in ranges.split(","):
        low, _, high = piece.strip().partition("-")
        numbers.extend(range(int(low), int(high or low) + 1))
    return numbers


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
            client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")})
            state = Path(os.environ["MPIPARALLEL_STATE"])
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


# ---------------------------------------------------------------- overview


@pytest.mark.mpi
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
    strips = notebook.cell("aspect=").pictures
    assert len(strips) == 2
    parts = [np.log1p(count)[90 * engine : 90 * (engine + 1)] for engine in (0, 1)]
    likeness = [[alike(strip, part) for part in parts] for strip in strips]
    assert min(likeness[0][0], likeness[1][1]) > max(0.8, likeness[0][1], likeness[1][0])


# ---------------------------------------------------------------- Monte Carlo


def black_scholes(strike: float, sigma: float) -> float:
    """Return the price of the notebook's European call."""
    up = (math.log(100 / strike) + 0.05 + sigma**2 / 2) / sigma
    below = [(1 + math.erf(x / math.sqrt(2))) / 2 for x in (up, up - sigma)]
    return 100 * below[0] - strike * math.exp(-0.05) * below[1]


@pytest.mark.mpi
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
