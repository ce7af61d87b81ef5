"""What a check has found, and what all checks know."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mpiparallel.config import Config
from mpiparallel.launchoptions import LaunchOptions

# skip: there is nothing to check here, and nothing is wrong with that.
Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    name : str
        What was looked at, in a word or two.
    words : str
        What was seen, in whole words.
    remedy : str
        What to do about it; empty when nothing has to be done.
    facts : mapping
        The same for programs (``--json``).
    """

    name: str
    status: Status
    words: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def ok(name: str, words: str, **facts: Any) -> Finding:
    """All is well."""
    return Finding(name, "ok", words, facts=facts)


def warn(name: str, words: str, remedy: str, **facts: Any) -> Finding:
    """Something works, and could work better; or could not be tried."""
    return Finding(name, "warn", words, remedy, facts)


def fail(name: str, words: str, remedy: str, **facts: Any) -> Finding:
    """Something does not work."""
    return Finding(name, "fail", words, remedy, facts)


def skip(name: str, words: str, **facts: Any) -> Finding:
    """There is nothing of the kind here."""
    return Finding(name, "skip", words, facts=facts)


@dataclass
class Context:
    """What checks start from, and what earlier ones have found out for later ones.

    Attributes
    ----------
    environ : mapping of str
        The environment of the engines, with what modules and setup lines of a profile have changed.
    python : str
        The engines' Python.
    given : frozenset of str
        The settings of the command line: what is checked on purpose.
    problem : str
        Why `options` are not what the profile, the environment and the command line say, if they are not.
    deadline : float
        Of all checks together, by `time.monotonic`.
    library : mapping
        What `mpiparallel.engine.hello` says of the MPI library; empty: it could not be loaded.
    takes_jobs : bool
        Whether there is a batch system that might.
    clusters : dict of list of str
        The addresses of controllers of this host that other hosts may reach, by the names of their clusters.
    """

    config: Config
    options: LaunchOptions
    environ: Mapping[str, str]
    python: str
    deadline: float
    profile: str = ""
    given: frozenset[str] = frozenset()
    problem: str = ""
    library: Mapping[str, Any] = field(default_factory=dict)
    takes_jobs: bool = False
    clusters: dict[str, list[str]] = field(default_factory=dict)

    def within(self, seconds: float) -> float:
        """Return `seconds`, or what is left of the time for all checks."""
        return max(0.1, min(seconds, self.deadline - time.monotonic()))
