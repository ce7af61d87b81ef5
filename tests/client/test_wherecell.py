"""Cells with the engines beside their lines, without engines."""

from __future__ import annotations

from mpiparallel.client.where import EnginePlace
from mpiparallel.client.wherecell import CellWhereabouts, listing
from mpiparallel.wire.waits import Frame

CELL = """\
import time

def work(x):
    time.sleep(x)

for i in range(3):
    work(i)
comm.barrier()
print()
"""


def at(engine: int, *frames: tuple[int, str, str], request: str = "r") -> EnginePlace:
    stack = [Frame("cell", line, function, text) for line, function, text in frames]
    return EnginePlace(engine, "running", request=request, stack=stack)


MODULE = (7, "<module>", "work(i)")


def test_engines_stand_beside_their_lines():
    places = [at(engine, (8, "<module>", "comm.barrier()")) for engine in (0, 1, 2, 4)] + [at(3, MODULE)]
    assert listing(CELL, places) == (
        "          ...\n"
        "          5\n"
        "          6  for i in range(3):\n"
        "     3 -> 7      work(i)\n"
        "0-2, 4 -> 8  comm.barrier()\n"
        "          9  print()"
    )


def test_the_innermost_line_of_the_cell_counts():
    assert listing(CELL, [at(0, MODULE, (4, "work", "time.sleep(x)"))]).splitlines()[2:] == [
        "     3  def work(x):",
        "0 -> 4      time.sleep(x)",
        "     5",
        "     6  for i in range(3):",
        "     ...",
    ]  # fmt: skip


def test_functions_of_other_cells_are_not_taken_for_this_one():
    drawn = listing(CELL, [at(0, MODULE, (4, "work", "solve(x)"))])
    assert "0 -> 7      work(i)" in drawn and drawn.count("->") == 1
    drawn = listing(CELL, [at(0, (9, "work", "solve(x)"))])
    assert drawn == ""


def test_magics_have_other_lines_than_the_cell():
    place = at(0, (1, "<module>", "get_ipython().run_line_magic('time', 'work()')"))
    assert listing("%time work()\n1\n", [place]) == "0 -> 1  %time work()\n     2  1"


def test_nothing_to_show():
    assert listing(CELL, []) == ""
    assert listing("work(1)\n", [at(0, (1, "<module>", "work(1)"))]) == ""
    assert listing("a\nb\n", [at(0, (5, "<module>", "x"))]) == ""
    assert listing("", [at(0, MODULE)]) == ""


def test_numbers_are_aligned():
    cell = "\n".join(f"x{i}" for i in range(1, 13))
    drawn = listing(cell, [at(0, (1, "<module>", "x1")), at(7, (10, "<module>", "x10"))])
    assert drawn.splitlines() == [
        "0 ->  1  x1", "      2  x2", "      3  x3", "      ...", "      8  x8", "      9  x9",
        "7 -> 10  x10", "     11  x11", "     12  x12",
    ]  # fmt: skip


def test_cells_below_the_picture():
    places = [at(0, MODULE), at(1, (2, "<module>", "b"), request="other"), EnginePlace(2, "idle")]
    shown = str(CellWhereabouts(places, {"r": CELL, "other": "a\nb", "gone": CELL}))
    picture, first, second = shown.split("\n\n")
    assert "engine 2" in picture and "idle" in picture
    assert "0 -> 7" in first and second == "     1  a\n1 -> 2  b"
    assert "0 -&gt; 7" in CellWhereabouts(places, {"r": CELL})._repr_html_()
    assert str(CellWhereabouts(places[2:], {"r": CELL})).startswith("engine 2")
