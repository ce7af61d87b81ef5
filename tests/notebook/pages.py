"""What a notebook shows of a cell: its outputs, made of the kernel's messages as a front-end makes them."""

from __future__ import annotations

import re
from typing import Any


class Page:
    """The outputs of one cell, as a notebook would store them by now.

    Streams are joined where they follow one another, ``update_display`` changes what was shown, and
    ``clear_output(wait=True)`` takes effect with the next output, as in JupyterLab.
    """

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self._clear = False

    def take(self, message: dict[str, Any]) -> None:
        """Take in a message of the IOPub channel."""
        kind, content = message["header"]["msg_type"], message["content"]
        self.messages.append(message)
        if kind == "clear_output":
            self._clear = content["wait"]
            if not content["wait"]:
                self.outputs.clear()
        elif kind == "update_display_data":
            for output in self.outputs:
                if _identity(output) is not None and _identity(output) == _identity(content):
                    output["data"], output["metadata"] = content["data"], content["metadata"]
        elif kind in ("stream", "display_data", "execute_result", "error"):
            if self._clear:
                self._clear = False
                self.outputs.clear()
            last = self.outputs[-1] if self.outputs else {}
            if kind == "stream" and last.get("type") == kind and last["name"] == content["name"]:
                last["parts"].append(content["text"])
            elif kind == "stream":
                self.outputs.append({"type": kind, "name": content["name"], "parts": [content["text"]]})
            else:
                self.outputs.append({"type": kind, **content})

    def text(self, *names: str) -> str:
        """All that was printed to ``stdout`` and ``stderr``, or to one of them."""
        parts = [
            part
            for output in self.outputs
            if output["type"] == "stream" and output["name"] in (names or ("stdout", "stderr"))
            for part in output["parts"]
        ]
        return "".join(parts)

    @property
    def stdout(self) -> str:
        return self.text("stdout")

    @property
    def stderr(self) -> str:
        return self.text("stderr")

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Outputs of one type: ``stream``, ``display_data``, ``execute_result`` or ``error``."""
        return [output for output in self.outputs if output["type"] == kind]

    def bundles(self) -> list[dict[str, Any]]:
        """MIME bundles of displays and results, in order."""
        return [output["data"] for output in self.outputs if "data" in output]

    def mime(self, kind: str) -> list[Any]:
        """The data of one MIME type, in order."""
        return [bundle[kind] for bundle in self.bundles() if kind in bundle]

    @property
    def error(self) -> str | None:
        """Name and text of the error that ended the cell, or None."""
        errors = self.of("error")
        return f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else None

    @property
    def traceback(self) -> str:
        """The traceback of the error that ended the cell, without colours."""
        return plain("\n".join(line for one in self.of("error") for line in one["traceback"]))

    def read(self) -> str:
        """All that a reader sees, in order, as text without colours: streams, displays, tracebacks."""
        parts = []
        for output in self.outputs:
            if output["type"] == "stream":
                parts.append("".join(output["parts"]))
            elif output["type"] == "error":
                parts.append("\n".join(output["traceback"]) + "\n")
            else:
                parts.append(output["data"].get("text/plain", f"<{', '.join(output['data'])}>") + "\n")
        return overwritten(plain("".join(parts)))


def spoken(text: str) -> list[tuple[tuple[int, ...], str]]:
    """Return lines, and which engines have printed them: ``[stdout:0-2, 5] `` stands above them or before."""
    engines: tuple[int, ...] = ()
    found = []
    for line in text.split("\n"):
        label = re.match(r"\[std(?:out|err):([\d, -]+)\] ?", line)
        if label:
            ends = [[int(end) for end in part.split("-")] for part in label[1].split(",")]
            engines = tuple(engine for end in ends for engine in range(end[0], end[-1] + 1))
            line = line[label.end() :]
        if line:
            found.append((engines, line))
    return found


def plain(text: str) -> str:
    """Return `text` without ANSI colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def overwritten(text: str) -> str:
    r"""Return `text` as it is seen when every ``\r`` has gone back to the start of its line."""
    lines = []
    for line in text.split("\n"):
        seen = ""
        for part in line.split("\r"):
            seen = part + seen[len(part) :]
        lines.append(seen)
    return "\n".join(lines)


def _identity(content: dict[str, Any]) -> str | None:
    return (content.get("transient") or {}).get("display_id")
