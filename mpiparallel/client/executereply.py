"""What ``execute`` returns for one engine; it shows itself as the cell's output in IPython."""

from __future__ import annotations

import sys
from typing import Any

from mpiparallel.client.metadata import DEFAULTS, Metadata


class RichOutput:
    """A display or a displayed result of an engine, which shows itself again here.

    Parameters
    ----------
    content
        ``data`` (a MIME bundle) and ``metadata``.
    source
        What made it.
    """

    def __init__(self, content: dict[str, Any], source: str | None = None) -> None:
        self.source = source
        self.data: dict[str, Any] = content.get("data") or {}
        self.metadata: Any = content.get("metadata") or {}

    def display(self) -> None:
        """Show it in IPython, or print its text."""
        publish(self.data, self._mime_metadata())

    def _mime_metadata(self) -> dict[str, Any]:
        return dict(self.metadata)

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(self.data), self._mime_metadata()

    def _mime(self, kind: str) -> Any:
        data = self.data.get(kind)
        metadata = self._mime_metadata().get(kind)
        return (data, metadata) if data is not None and metadata else data

    def _repr_html_(self) -> Any:
        return self._mime("text/html")

    def _repr_latex_(self) -> Any:
        return self._mime("text/latex")

    def _repr_json_(self) -> Any:
        return self._mime("application/json")

    def _repr_javascript_(self) -> Any:
        return self._mime("application/javascript")

    def _repr_png_(self) -> Any:
        return self._mime("image/png")

    def _repr_jpeg_(self) -> Any:
        return self._mime("image/jpeg")

    def _repr_svg_(self) -> Any:
        return self._mime("image/svg+xml")


class ExecuteReply(RichOutput):
    """The answer of one engine to ``execute``.

    Everything in the task's metadata is an attribute and an item too: ``reply.stdout``, ``reply["outputs"]``.
    """

    def __init__(self, msg_id: str, content: dict[str, Any], metadata: Metadata) -> None:
        self.msg_id = msg_id
        self._content = content
        self.execution_count: int | None = content.get("execution_count")
        self.metadata: Metadata = metadata

    @property
    def _result(self) -> dict[str, Any]:
        return self.metadata["execute_result"] or {}

    @property
    def source(self) -> str | None:  # type: ignore[override]
        return self._result.get("source")

    @property
    def data(self) -> dict[str, Any]:  # type: ignore[override]
        """The MIME bundle of the cell's result."""
        return self._result.get("data") or {}

    def _mime_metadata(self) -> dict[str, Any]:
        return {"engine": self.metadata["engine_id"], **(self._result.get("metadata") or {})}

    def __getitem__(self, key: str) -> Any:
        return self.metadata[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in DEFAULTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.metadata[name]

    def __repr__(self) -> str:
        text = self.data.get("text/plain", "")
        if len(text) > 32:
            text = text[:29] + "..."
        return f"<ExecuteReply[{self.execution_count}]: {text}>"

    def _label(self) -> str:
        return f"Out[{self.metadata['engine_id']}:{self.execution_count}]: "

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        text = self.data.get("text/plain", "")
        printer.text(self._label() + ("\n" if "\n" in text else "") + text)

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = dict(self.data)
        text = bundle.get("text/plain", "")
        bundle["text/plain"] = self._label() + ("\n" if "\n" in text else "") + text
        return bundle, self._mime_metadata()

    def display(self) -> None:
        """Show the cell's result in IPython, or print its text."""
        if self.data:
            publish(*self._repr_mimebundle_())


def get_ipython() -> Any:
    """Return the running IPython shell, or None; does not import IPython."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def publish(data: dict[str, Any], metadata: dict[str, Any], **options: Any) -> None:
    """Show a MIME bundle in IPython; outside it, print its text."""
    shell = get_ipython()
    if shell is not None:
        shell.display_pub.publish(data=data, metadata=metadata, **options)
    elif "text/plain" in data:
        print(data["text/plain"])
