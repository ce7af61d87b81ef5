"""Turn pictures grey: one after the other, with a direct view, and with a load-balanced view.

    mpiparallel run -n 4 examples/greyscale.py            (or, with a cluster that runs: python ...)

The pictures are made here, of very different sizes. A direct view gives each engine a block of the list
in advance, so one of them gets all the large ones; a load-balanced view gives each the next picture when it
is done with the last. A picture of what went in and came out is written to greyscale.png (greyscale.ppm
where pillow is not installed), or to the file that is given as an argument.
"""

import os
import sys
import tempfile
import time

import numpy as np

import mpiparallel as ipp

# The last ones take longest.
SIZES = [60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 280, 320, 360, 400, 440, 480]


def landscape(size, seed):
    """Return a colour picture: a sky, a sun and three ranges of hills."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:1 : size * 1j, 0 : 1.5 : int(size * 1.5) * 1j]
    image = np.stack([0.35 + 0.6 * y, 0.55 + 0.3 * y, 0.95 - 0.2 * y], axis=-1)
    sun = random.uniform([0.3, 0.15], [1.2, 0.4])
    image[(x - sun[0]) ** 2 + (y - sun[1]) ** 2 < 0.008] = [1.0, 0.9, 0.5]
    for distance, colour in enumerate([[0.45, 0.5, 0.65], [0.3, 0.5, 0.35], [0.5, 0.35, 0.2]]):
        waves = [np.sin(x * random.uniform(3, 14) + random.uniform(0, 6)) for _ in range(3)]
        image[y > 0.5 + 0.15 * distance + 0.04 * sum(waves)] = colour
    return (255 * np.clip(image + random.normal(0, 0.02, image.shape), 0, 1)).astype(np.uint8)


def write_ppm(path, image):
    """Write a picture in a format that needs no library."""
    with open(path, "wb") as file:
        file.write(b"P6 %d %d 255\n" % (image.shape[1], image.shape[0]))
        file.write(image.tobytes())


def convert2greyscale(path):
    """Read the picture in a file, smooth it, and return it in grey. Runs on engines."""
    import numpy as np

    with open(path, "rb") as file:
        _, width, height, _ = file.readline().split()
        image = np.frombuffer(file.read(), np.uint8).reshape(int(height), int(width), 3) / 255.0
    for _ in range(12):
        image = (image + sum(np.roll(image, shift, axis) for shift in (1, -1) for axis in (0, 1))) / 5
    return (255 * (image @ [0.2125, 0.7154, 0.0721])).astype(np.uint8)


def timed(title, call):
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    print(f"{title:<22} {len(result)} pictures in {seconds:5.2f} s")
    return result


def show(inputs, outputs, path):
    """Write the pictures that went in, and below them those that came out."""
    height = 120
    tiles = [np.arange(height) * len(image) // height for image in inputs]
    above = [image[rows][:, rows_of(image, height)] for image, rows in zip(inputs, tiles, strict=True)]
    below = [image[rows][:, rows_of(image, height)] for image, rows in zip(outputs, tiles, strict=True)]
    grey = [np.repeat(image[:, :, None], 3, axis=2) for image in below]
    sheet = np.concatenate([np.concatenate(above, axis=1), np.concatenate(grey, axis=1)])
    try:
        from PIL import Image
    except ImportError:
        path = os.path.splitext(path)[0] + ".ppm"
        write_ppm(path, sheet)
    else:
        Image.fromarray(sheet).save(path)
    print("input and output:", path)


def rows_of(image, height):
    """Return which columns of a picture a tile of this height shows."""
    width = height * 3 // 2
    return np.arange(width) * image.shape[1] // width


def main():
    with ipp.Client() as rc, tempfile.TemporaryDirectory() as folder:
        rc.wait_for_engines(1, timeout=60)
        pictures, inputs = [], [landscape(size, seed) for seed, size in enumerate(SIZES)]
        for number, image in enumerate(inputs):
            pictures.append(os.path.join(folder, f"landscape-{number}.ppm"))
            write_ppm(pictures[-1], image)

        dview, lview = rc[:], rc.load_balanced_view()
        lview.map_sync(len, ["wake up"] * len(rc))
        print(f"{len(rc)} engines, {os.cpu_count()} cores here")
        serial = timed("one after the other:", lambda: [*map(convert2greyscale, pictures)])
        direct = timed("dview.map_sync:", lambda: dview.map_sync(convert2greyscale, pictures))
        balanced = timed("lview.map_sync:", lambda: lview.map_sync(convert2greyscale, pictures[::-1]))[::-1]
        triples = zip(serial, direct, balanced, strict=True)
        same = all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in triples)
        print("the same pictures:", same)
        show(inputs[-4:], balanced[-4:], sys.argv[1] if len(sys.argv) > 1 else "greyscale.png")


if __name__ == "__main__":
    main()
