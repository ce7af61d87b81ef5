"""Heat spreads over a plate that four MPI ranks share, drawn here while they compute.

    make demo                                  (or: mpiparallel run -n 4 examples/demo.py)

Each engine holds a band of rows. In every step it swaps edge rows with its neighbours over MPI; this
program never touches the field, it only asks for a small picture of it now and then.
"""

# ruff: noqa: F821 - `comm`, `mpi_rank` and their like are names that every engine has

import os
import shutil
import sys
import time

import numpy as np

import mpiparallel as ipp

ROWS, COLUMNS = 768, 1024
FRAMES, STEPS = 12, 250  # pictures, and time steps between two of them
WIDTH, HEIGHT = 64, 16  # of a picture, in characters; each shows two points, one above the other
COLOURS = [
    17,
    18,
    19,
    54,
    90,
    126,
    161,
    196,
    202,
    208,
    214,
    220,
    227,
    230,
]  # of a terminal's 256: cold to hot


def set_up(rows, columns):
    """Cut the plate into bands of rows, one for each rank, with a hot ring and a warm disc on it."""
    global field  # a function's globals are the engine's own names: the functions below find it there

    first, last = rows * mpi_rank // mpi_size, rows * (mpi_rank + 1) // mpi_size
    y, x = np.mgrid[first - 1 : last + 1, 0:columns]
    field = np.zeros(x.shape)
    field[(x - columns * 0.3) ** 2 + (y - rows * 0.35) ** 2 < (rows * 0.22) ** 2] = 1.0
    field[(x - columns * 0.72) ** 2 + (y - rows * 0.7) ** 2 < (rows * 0.2) ** 2] = 0.75
    field[(x - columns * 0.3) ** 2 + (y - rows * 0.35) ** 2 < (rows * 0.09) ** 2] = 0.0
    return {"rank": mpi_rank, "pid": os.getpid(), "rows": (first, last)}


def advance(steps):
    """Take time steps on this rank's band; return the seconds spent in computing and in talking."""
    above = mpi_rank - 1 if mpi_rank > 0 else MPI.PROC_NULL
    below = mpi_rank + 1 if mpi_rank < mpi_size - 1 else MPI.PROC_NULL
    u, talking, began = field, 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        comm.Sendrecv(u[1], above, recvbuf=u[-1], source=below)
        comm.Sendrecv(u[-2], below, recvbuf=u[0], source=above)
        talking += time.perf_counter() - asked
        around = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
        around *= 0.25
        u[1:-1, 1:-1] = around
    return time.perf_counter() - began - talking, talking


def picture(rows, columns):
    """Return this band's share of a picture of the plate, and the heat of the whole plate, summed by MPI."""
    inner = field[1:-1]
    share = rows * (mpi_rank + 1) // mpi_size - rows * mpi_rank // mpi_size
    blocks = np.array_split(inner, share)
    means = [block.reshape(len(block), columns, -1).mean(axis=(0, 2)) for block in blocks]
    return np.array(means), comm.allreduce(float(inner.sum()), op=MPI.SUM)


def draw(image):
    """Return the lines of a picture: half blocks in colours, or characters where there are none."""
    top, bottom = image[0::2], image[1::2]
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        levels = (np.clip((top + bottom) / 2, 0, 0.999) * 10).astype(int)
        return ["".join(" .:-=+*#%@"[level] for level in row) for row in levels]
    code = (np.clip(image, 0, 0.999) * len(COLOURS)).astype(int)
    return [
        "".join(f"\x1b[38;5;{COLOURS[a]};48;5;{COLOURS[b]}m▀" for a, b in zip(up, down, strict=True))
        + "\x1b[0m"
        for up, down in zip(code[0::2], code[1::2], strict=True)
    ]


def show_run(view):
    """Let the ranks compute; draw a picture after every so many steps."""
    animate = sys.stdout.isatty() and shutil.get_terminal_size().lines > HEIGHT + 6
    computing = talking = 0.0
    for frame in range(FRAMES + 1):
        if frame:
            times = view.apply_sync(advance, STEPS)
            computing += max(spent for spent, _ in times)
            talking += max(spent for _, spent in times)
        parts = view.apply_sync(picture, 2 * HEIGHT, WIDTH)
        lines = draw(np.concatenate([part for part, _ in parts]))
        if animate and frame:
            print(f"\x1b[{HEIGHT + 1}A", end="")
        if animate or frame in (0, FRAMES):
            print("\n".join(lines))
            print(f"step {frame * STEPS:>5}   heat of the whole plate, by comm.allreduce: {parts[0][1]:,.1f}")
    points = ROWS * COLUMNS * FRAMES * STEPS
    speed = points / computing / 1e6
    print(f"\n{FRAMES * STEPS:,} steps: {computing:.2f} s computing ({speed:,.0f} M points/s),", end=" ")
    print(f"{talking:.2f} s in halo exchange")


def show_speed(view):
    """Time the round trip of a call and of data."""
    data = np.random.default_rng(0).random(4_000_000)
    megabytes = data.nbytes / 1e6

    def took(call):
        began = time.perf_counter()
        result = call()
        return time.perf_counter() - began, result

    view.apply_sync(int)
    calls = sorted(took(lambda: view.apply_sync(int))[0] for _ in range(50))
    print(f"\na call on all engines and back: {calls[25] * 1e3:.2f} ms (median of 50)")
    for title, call in [
        ("scatter", lambda: view.scatter("part", data, block=True)),
        ("gather", lambda: view.gather("part", block=True)),
        ("push to all", lambda: view.push({"whole": data}, block=True)),
    ]:
        call()
        seconds, result = took(call)
        print(
            f"{title:<12} {megabytes:.0f} MB: {seconds * 1e3:6.1f} ms  {megabytes / seconds / 1e3:5.2f} GB/s"
        )
        if title == "gather":
            assert np.array_equal(result, data), "gather did not return what was scattered"


def main():
    with ipp.Client() as rc:
        rc.wait_for_engines(1, timeout=60)
        view = rc[:]
        print(f"{len(view)} MPI ranks share a plate of {ROWS} x {COLUMNS} points\n")
        for about in view.apply_sync(set_up, ROWS, COLUMNS):
            first, last = about["rows"]
            print(f"  rank {about['rank']}: process {about['pid']}, rows {first} to {last - 1}")
        print()
        show_run(view)
        show_speed(view)


if __name__ == "__main__":
    main()
