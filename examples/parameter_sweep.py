"""A parameter sweep: try many parameters, with a progress bar, and stop as soon as one is good enough.

    mpiparallel run -n 4 examples/parameter_sweep.py

A damped pendulum is driven by a force. Which strengths and frequencies of the force make it turn over? The
parameters come from a generator that never ends; only so many are under way as keep the engines busy.
"""

import itertools
import math

import mpiparallel as ipp

TRIES = 300
WANTED = 5  # turns that are found before the sweep is over


def turns(parameters):
    """Return how often the pendulum turns over. Runs on engines."""
    import math

    force, frequency = parameters
    angle, speed, step = 0.1, 0.0, 0.02
    for number in range(6000):
        drive = force * math.cos(frequency * number * step)
        speed += step * (drive - 0.5 * speed - math.sin(angle))
        angle += step * speed
    return abs(angle) / (2 * math.pi)


def parameters():
    """Yield points of a plane, evenly spread and ever denser."""
    for number in itertools.count(1):
        yield 0.2 + 1.6 * (number * 0.7548776662 % 1), 0.3 + 1.2 * (number * 0.5698402910 % 1)


def main():
    with ipp.Client() as rc:
        rc.wait_for_engines(1, timeout=60)
        lview = rc.load_balanced_view()
        tried, found = parameters(), []
        results = lview.imap(turns, parameters(), progress=True, total=TRIES)
        for number, ((force, frequency), count) in enumerate(zip(tried, results, strict=False), 1):
            if count >= 1:
                found.append((count, force, frequency))
                results.bar.set_description(f"{len(found)} found")
            if number == TRIES or len(found) == WANTED:
                break
        results.close()  # what has not begun is taken out of the queues
        print(f"{len(found)} of {number} pendulums turned over:")
        for count, force, frequency in sorted(found, reverse=True):
            print(f"  force {force:.3f}, frequency {frequency:.3f}: {math.floor(count)} turns")


if __name__ == "__main__":
    main()
