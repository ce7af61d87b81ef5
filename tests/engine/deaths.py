"""Who is to die how in a run of recovery_ranks.py: known to the test and to all ranks."""

from __future__ import annotations

import random

STEPS = 150  # of each rank
Deaths = dict[int, tuple[str, float]]  # rank -> where, and at which step or after which time


def plan(scenario: str, seed: int, n: int) -> Deaths:
    """Return how ranks die.

    "step": at that step of their own. "time": at a time. "recovery": at a time after they have heard of
    another's death. "message": when they are told to, just before they are to make a communicator.
    """
    dice = random.Random(f"{scenario}-{seed}")
    steps = lambda: ("step", dice.randrange(STEPS))  # noqa: E731
    if scenario == "none":
        return {}
    if scenario == "leader":
        return {0: steps()}
    if scenario == "order":
        return {n - 1: ("message", 0.0)}
    if scenario == "two":
        step = steps()
        return dict.fromkeys(dice.sample(range(n), 2), step)
    first, *others = dice.sample(range(n), dice.randint(2, n - 1))
    deaths: Deaths = {first: steps()}
    for rank in others:
        where = "recovery" if scenario == "recovery" else dice.choice(["step", "time", "recovery"])
        when = {"step": float(steps()[1]), "time": dice.uniform(0, 0.4), "recovery": dice.uniform(0, 0.02)}
        deaths[rank] = (where, when[where])
    return deaths
