"""Numbers of engines and ranks as people write them: ``0-2, 4-63``."""

from __future__ import annotations

from collections.abc import Iterable

PIECES = 8  # that are shown


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ranges, in order; of very many pieces the first ones, and how many numbers there are.

    >>> ranges([0, 1, 2, 4])
    '0-2, 4'
    """
    pieces: list[list[int]] = []
    count = 0
    for number in sorted(numbers):
        count += 1
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    words = [f"{low}" if low == high else f"{low}-{high}" for low, high in pieces]
    if len(words) > PIECES:
        words[PIECES - 1 :] = [f"... ({count} in all)"]
    return ", ".join(words)


def engines(numbers: Iterable[int]) -> str:
    """Return engines by name: ``engine 3``, ``engines 0-2, 4``."""
    several = list(numbers)
    return f"engine{'s' * (len(several) != 1)} {ranges(several)}"
