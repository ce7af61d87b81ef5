"""A `Cluster`'s panel in a notebook: its card, buttons to start, stop and resize it, and its logs.

Made with ipywidgets when a notebook shows a cluster; without ipywidgets there is the card alone. Buttons do
their work in threads, so that the kernel runs cells meanwhile. What changes by itself is looked for every
second while the cluster runs.
"""

from __future__ import annotations

import html
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mpiparallel import cluster_engines, connection_file
from mpiparallel.client import cards
from mpiparallel.client import html as drawing
from mpiparallel.client.connection import Connection
from mpiparallel.client.executereply import get_ipython
from mpiparallel.client.looks import some
from mpiparallel.error import IPythonError

if TYPE_CHECKING:
    from mpiparallel.cluster import Cluster

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two looks
PATIENCE = 2.0  # seconds that the controller has to answer
LINES = 40  # of each log
_lock = threading.Lock()  # over the making of panels


def bundle(cluster: Any) -> dict[str, Any]:
    """Return what a notebook needs to show the panel; nothing where there is none."""
    panel = panel_of(cluster)
    if panel is None:
        return {}
    panel.refresh()
    # Text and HTML remain the cluster's own, for front-ends that know no widgets.
    return {
        name: part for name, part in panel.box._repr_mimebundle_().items() if not name.startswith("text/")
    }


def panel_of(cluster: Cluster) -> Panel | None:
    """Return the panel of a cluster; None outside notebooks, and without ipywidgets."""
    if getattr(get_ipython(), "kernel", None) is None:
        return None
    try:
        import ipywidgets
    except ImportError:
        return None
    with _lock:
        if cluster._panel is None:
            cluster._panel = Panel(cluster, ipywidgets)
    return cluster._panel


class Panel:
    """The widgets of one cluster.

    Attributes
    ----------
    box
        The widget that holds the others: the card (`head`), the `number` of engines, the buttons (`start`,
        `resize`, `stop`, `logs`), what is going on (`said`) and the end of the `log`.
    """

    def __init__(self, cluster: Cluster, widgets: Any) -> None:
        self._cluster = weakref.ref(cluster)  # which holds the panel
        self._lock = threading.RLock()  # over all below, and over what the widgets show
        self._doing = ""  # what a thread does at the moment
        self._may_be_given_up = False
        self._problem = ""  # what came of the last thing that failed
        self._n = cluster.n
        self._asked = -1  # the number for which the next click restarts all engines
        self._watching = False
        # Of our own, and no client: the first client is the one that IPython's parallel magics use.
        self.connection: Connection | None = None
        self._held: list[Connection] = []
        weakref.finalize(self, _close, self._held)
        self._wake = threading.Event()
        small = widgets.Layout(width="auto")
        self.head = widgets.HTML()
        self.number = widgets.BoundedIntText(
            value=cluster.n or 4, min=0, max=1_000_000, description="engines",
            layout=widgets.Layout(width="11em"), style={"description_width": "4.5em"},
        )  # fmt: skip
        self.start = widgets.Button(description="Start", icon="play", layout=small)
        self.resize = widgets.Button(description="Resize", icon="arrows-h", layout=small)
        self.stop = widgets.Button(description="Stop", icon="stop", layout=small)
        self.logs = widgets.ToggleButton(description="Logs", icon="file-text-o", layout=small)
        self.said = widgets.HTML()
        self.log = widgets.HTML()
        row = [self.number, self.start, self.resize, self.stop, self.logs]
        self.box = widgets.VBox([self.head, widgets.HBox(row), self.said, self.log])
        self.start.on_click(lambda _: self._on_start())
        self.resize.on_click(lambda _: self._on_resize())
        self.stop.on_click(lambda _: self._on_stop())
        self.logs.observe(lambda _: self.refresh(), "value")
        self.number.observe(lambda _: self._on_number(), "value")
        self.changed()

    # ------------------------------------------------------------ buttons

    def _on_number(self) -> None:
        with self._lock:
            self._asked, self._problem = -1, ""
        self.refresh()

    def _on_start(self) -> None:
        n = int(self.number.value)
        self._begin(f"starting {some(n, 'engine')}", lambda cluster: _start(cluster, n), may_be_given_up=True)

    def _on_resize(self) -> None:
        n = int(self.number.value)
        restart = self._asked == n
        if restart:
            self._begin(f"starting all again, as {n}", lambda cluster: cluster.resize_sync(n, restart=True))
        else:
            self._begin(f"changing to {some(n, 'engine')}", lambda cluster: self._resize(cluster, n))

    def _resize(self, cluster: Cluster, n: int) -> None:
        try:
            cluster.resize_plan(n)
        except ValueError as problem:
            with self._lock:
                self._asked = n
            raise ValueError(f"{problem}.\nTo do that, click the button once more.") from None
        cluster.resize_sync(n)

    def _on_stop(self) -> None:
        cluster = self._cluster()
        if cluster is None:
            return
        with self._lock:
            if self._may_be_given_up:
                cluster.given_up.set()  # the start that is under way ends, and clears up behind itself
        self._begin("stopping", lambda cluster: cluster.stop_cluster_sync())

    def _begin(self, doing: str, work: Callable[[Cluster], object], *, may_be_given_up: bool = False) -> None:
        """Do `work` in a thread, unless something is being done."""
        with self._lock:
            if self._doing:
                return
            self._doing, self._problem, self._asked = doing, "", -1
            self._may_be_given_up = may_be_given_up
        self.refresh()
        threading.Thread(target=self._do, args=(work,), name="mpiparallel-panel", daemon=True).start()
        self.changed()

    def _do(self, work: Callable[[Cluster], object]) -> None:
        problem = ""
        cluster = self._cluster()
        try:
            if cluster is not None:
                work(cluster)
        except Exception as error:  # whatever it is, the person at the panel is told
            problem = f"{error}" or type(error).__name__
        finally:
            with self._lock:
                self._doing, self._problem = "", problem
                if self._may_be_given_up and cluster is not None:
                    cluster.given_up.clear()
                self._may_be_given_up = False
            self.changed()

    # ------------------------------------------------------------ showing

    def changed(self) -> None:
        """Have a thread show what has changed, and look for more from now on, while the cluster runs.

        Whoever has changed the cluster need not care whether there is still a notebook to show it.
        """
        with self._lock:
            self._wake.set()
            if not self._watching and self._is_alive():
                self._watching = True
                watch = threading.Thread(
                    target=_watch, args=(weakref.ref(self), self._wake), name="mpiparallel-watch", daemon=True
                )
                watch.start()

    def _is_alive(self) -> bool:
        cluster = self._cluster()
        return bool(self._doing) or (cluster is not None and cluster.controller is not None)

    def look(self) -> bool:
        """Show what has changed; return whether there is more to come."""
        self._wake.clear()
        self._see_engines()
        self.refresh()
        with self._lock:
            self._watching = self._is_alive() or self._wake.is_set()
            return self._watching

    def _see_engines(self) -> None:
        """Be connected while the cluster runs and nobody here has a client, to see engines come and go."""
        cluster, own = self._cluster(), self.connection
        if own is not None and (own.gone is not None or cluster is None or cluster.controller is None):
            own.close()
            self.connection = None
            self._held.clear()
        if cluster is None or cluster.controller is None or not cluster.controller.running:
            return
        try:
            if not cluster.living_connections() and self.connection is None:
                info = connection_file.read(cluster.connection_file)
                self.connection = Connection(info, cluster.config, PATIENCE, cluster.connection_file)
                self._held.append(self.connection)
            unknown = [one for one in list(cluster.engines.values()) if one.first < 0]
            for connection in cluster.living_connections()[:1] if unknown else []:
                cluster_engines.note_ids(cards.status(connection, PATIENCE), connection.engines, unknown)
        except (IPythonError, OSError, RuntimeError, TimeoutError) as error:
            log.debug("no look at the engines of %r: %s", cluster, error)  # it starts, or ends, just now

    def refresh(self) -> None:
        """Show how things are. Widgets whose values stay the same send nothing."""
        cluster = self._cluster()
        if cluster is None:
            return
        with self._lock:
            running = cluster.controller is not None
            idle = not self._doing
            if idle and cluster.n is not None and cluster.n != self._n:
                self._n = cluster.n
                self.number.value = cluster.n  # code may have changed it
            card = cluster._card()
            if not idle:
                card = replace(card, state=f"{self._doing} ...", mood="busy", commands=())
            self.head.value = drawing.draw(card)
            self.start.disabled = running or not idle
            self.resize.disabled = not (running and idle)
            self.stop.disabled = not (self._may_be_given_up or (running and idle))
            self.stop.description = "Give up" if self._may_be_given_up else "Stop"
            again = self._asked >= 0
            self.resize.description = f"Restart as {self._asked}" if again else "Resize"
            self.resize.button_style = "warning" if again else ""
            self.said.value = self._said()
            self.log.value = _logs(cluster) if self.logs.value else ""

    def _said(self) -> str:
        if not self._problem:
            return ""
        colour = drawing.COLOURS["busy" if self._asked >= 0 else "bad"]
        style = f"border-left:3px solid {colour};padding-left:.6em;white-space:pre-wrap;line-height:1.4"
        return f'<div style="{style}">{html.escape(self._problem)}</div>'

    def close(self) -> None:
        """Take the widgets away."""
        self.box.close()
        _close(self._held)


def _close(held: list[Connection]) -> None:
    for connection in held:
        connection.close()


def _watch(panel: weakref.ref[Panel], wake: threading.Event) -> None:
    while True:
        wake.wait(EVERY)
        there = panel()
        if there is None or not there.look():
            return
        del there


def _start(cluster: Cluster, n: int) -> None:
    cluster.start_cluster_sync(n)
    try:
        with cluster.connect_client_sync() as client:
            # Not with a bar: this is not the thread of any cell.
            cluster.wait_for_engines_sync(client, n, interactive=False)
    except BaseException:
        cluster.stop_cluster_sync()
        raise


def _logs(cluster: Cluster) -> str:
    """Return the ends of the logs as HTML."""
    parts = [
        ("controller", cluster.controller),
        *((f"engines {name}", one) for name, one in cluster.engines.items()),
    ]
    style = (
        "max-height:16em;overflow:auto;border:1px solid rgba(128,128,128,.35);border-radius:4px;"
        "margin:.2em 0;padding:.4em .6em;white-space:pre-wrap;line-height:1.3;font-size:.9em;"
        "color:inherit;background:transparent;"
    )
    shown = [
        f'<div><b>{html.escape(name)}</b></div><pre style="{style}">'
        f"{html.escape(part.get_output(LINES).strip() or '(nothing)')}</pre>"
        for name, part in parts
        if part is not None
    ]
    return "".join(shown) or '<div style="opacity:.7">nothing runs</div>'
