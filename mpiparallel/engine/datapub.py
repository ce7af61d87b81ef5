"""Publish data from a running task: ``ar.data`` on the client, before the task has ended."""

from __future__ import annotations

from typing import Any

from mpiparallel.engine.output import OutputCapture

output: OutputCapture | None = None  # of this process, set when the engine starts


def publish_data(data: dict[str, Any]) -> None:
    """Send `data` to the client of the task that runs; it updates what ``ar.data`` holds already.

    Raises
    ------
    TypeError
        If `data` is not a dict.
    RuntimeError
        If this process is no engine.
    """
    if not isinstance(data, dict):
        raise TypeError(f"publish_data takes a dict of names and values, not {type(data).__name__}")
    if output is None:
        raise RuntimeError("publish_data works on engines only: call it in a function that you apply there")
    output.publish("data", data)
