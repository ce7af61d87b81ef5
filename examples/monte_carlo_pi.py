"""Estimate pi from random points: independent work on every engine, and how fast it gets better.

python examples/monte_carlo_pi.py
"""

import math

import mpiparallel as ipp

ENGINES = 4
POINTS = 2_000_000  # on each engine, in each round
ROUNDS = 6


def hits(points, seed):
    """Return how many of `points` random points of the unit square lie within the quarter circle."""
    import numpy as np

    x, y = np.random.default_rng(seed).random((2, points))
    return int(np.count_nonzero(x * x + y * y < 1.0))


def main():
    with ipp.Cluster(n=ENGINES) as rc:
        view = rc[:]
        print(f"{len(view)} engines, {POINTS:,} points each in every round\n")
        print(f"{'points':>12}  {'estimate':>9}  {'error':>8}  {'expected':>8}")
        inside = total = 0
        for number in range(ROUNDS):
            seeds = [(number, engine) for engine in view.targets]  # every engine draws its own numbers
            inside += sum(view.map_sync(hits, [POINTS] * len(view), seeds))
            total += POINTS * len(view)
            estimate = 4 * inside / total
            deviation = math.sqrt(math.pi * (4 - math.pi) / total)
            print(f"{total:>12,}  {estimate:9.6f}  {abs(estimate - math.pi):8.6f}  {deviation:8.6f}")
        print(f"\npi is about {estimate:.4f}")


if __name__ == "__main__":
    main()
