"""Turn pictures grey, first one after the other and then on all engines with `map`.

The pictures are made here, so that there is nothing to download. Start four engines first::

    mpiparallel start -n 4 --daemonize
    python examples/overview.py
    mpiparallel stop
"""

import socket
import time

import numpy as np

import mpiparallel


def picture(seed, size=768):
    """Return a colour picture: blurred noise in three channels."""
    noise = np.random.default_rng(seed).random((size, size, 3))
    return (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3


def convert2greyscale(seed):
    """Make a picture where this runs, and return it in grey."""
    colours = picture(seed)
    for _ in range(10):  # smooth it a little, so that there is something to do
        colours = (colours + np.roll(colours, 1, axis=0) + np.roll(colours, 1, axis=1)) / 3
    return (colours @ [0.2125, 0.7154, 0.0721]).astype("f4")


rc = mpiparallel.Client(profile="default")
nengines = len(rc)
print("engines:", nengines, "with the ids", rc.ids)

dvall = rc[:]
print("a view of all:", dvall, "of", type(dvall).__name__)
print("this prompt runs on", socket.gethostname())
print("the engines run on", sorted(set(dvall.apply_sync(socket.gethostname))))

pictures = list(range(16))
began = time.perf_counter()
sconverted = [*map(convert2greyscale, pictures)]
serial = time.perf_counter() - began
began = time.perf_counter()
pconverted = dvall.map_sync(convert2greyscale, pictures)
parallel = time.perf_counter() - began

print(f"one after the other: {len(sconverted)} pictures in {serial:.2f} s")
print(f"dvall.map_sync:      {len(pconverted)} pictures in {parallel:.2f} s")
print("the same pictures:", all(np.array_equal(a, b) for a, b in zip(sconverted, pconverted, strict=True)))
rc.close()
