"""What can be asked of anything that was started: a process on this machine, a batch job.

`launch.processes.Process` and the jobs of `launch.batch` are such. `launch.launched` and `Cluster` know no
more of them than this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Running(Protocol):
    """Something that was started and ends some day."""

    asked_to_stop: bool  # whether its end is what somebody wanted
    created: float  # seconds since the epoch

    @property
    def name(self) -> str:
        """What people know it by: ``"process 4711"``, ``"job 123"``."""

    @property
    def pid(self) -> int | None:
        """Its number, if it is a process on this machine."""

    @property
    def running(self) -> bool:
        """Whether it has yet to end. What waits in a queue has."""

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs, and when nobody can know."""

    @property
    def has_lifeline(self) -> bool:
        """Whether it ends by `close_lifeline`."""

    def describe_end(self) -> str:
        """Return how it ended, in words that continue "mpiexec ...": ``"ended with exit code 1"``."""

    def where(self) -> str:
        """Return its name and where it runs, for people: ``"job 123 on node[1-2]"``."""

    def what_it_waits_for(self) -> str:
        """Return why it has not begun, for people; empty when it has, or has no need to wait."""

    def why_never(self) -> str:
        """Return why it can never begin, and what to do about that; empty when it has begun, or may."""

    def tail(self, lines: int = 40) -> str:
        """Return the last lines that it wrote."""

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; False when `timeout` seconds did not suffice."""

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended` from a thread when it has ended."""

    def send_signal(self, signum: int) -> None:
        """Send a signal to it, if it still runs."""

    def close_lifeline(self) -> None:
        """Let it see that nobody needs it any more, if it has a lifeline."""

    def stop(self, grace: float) -> None:
        """End it in order; by force after `grace` seconds."""

    def kill(self) -> None:
        """End it at once."""

    def finish(self) -> None:
        """Remove what is left of it after its end."""

    def close(self) -> None:
        """Let go of its log; it is not touched."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `launch.launched.attach` needs to find it again from another program."""
