"""Clusters in a notebook: the panel, by a front-end's messages, and their methods in a running event loop."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest
from helpers import processes_of, wait_until

pytestmark = [pytest.mark.mpi, pytest.mark.anympi]

WIDGET = "application/vnd.jupyter.widget-view+json"


class FrontEnd:
    """The widgets of a kernel as a browser knows them: models by id, changed by messages of both sides."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.models: dict[str, dict[str, Any]] = {}

    def run(self, code: str) -> Any:
        """Run a cell, which has to go well, and return its page."""
        page = self.kernel.do(code)
        self._take(page.messages)
        return page

    def _take(self, messages: list[dict[str, Any]]) -> None:
        for message in [*self.kernel.stray, *messages]:
            content, kind = message["content"], message["header"]["msg_type"]
            if kind == "comm_open" and content["target_name"] == "jupyter.widget":
                self.models[content["comm_id"]] = dict(content["data"]["state"])
            elif kind == "comm_msg" and content["data"].get("method") == "update":
                self.models.get(content["comm_id"], {}).update(content["data"]["state"])
        self.kernel.stray.clear()

    def until(self, condition: Any, timeout: float = 60.0) -> None:
        """Take messages that come by themselves until `condition` holds."""
        deadline = time.monotonic() + timeout
        self._take([])
        while not condition():
            try:
                left = deadline - time.monotonic()
                self._take([self.kernel.client.get_iopub_msg(timeout=max(0.0, left))])
            except queue.Empty:
                shown = [state.get("value", state.get("description")) for state in self.models.values()]
                raise AssertionError(f"it did not come; shown: {shown}") from None

    def shows(self, text: str) -> bool:
        """Whether a text stands in one of the HTML widgets."""
        return any(
            text in str(state.get("value", ""))
            for state in self.models.values()
            if state.get("_model_name") == "HTMLModel"
        )

    def find(self, description: str) -> str:
        (found,) = [name for name, state in self.models.items() if state.get("description") == description]
        return found

    def can_click(self, description: str) -> bool:
        names = [state for state in self.models.values() if state.get("description") == description]
        return len(names) == 1 and not names[0]["disabled"]

    def _send(self, name: str, data: dict[str, Any]) -> None:
        client = self.kernel.client
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": name, "data": data}))

    def click(self, description: str) -> None:
        assert self.can_click(description)
        self._send(self.find(description), {"method": "custom", "content": {"event": "click"}})

    def put(self, description: str, value: Any) -> None:
        """Change the value of a widget."""
        name = self.find(description)
        self.models[name]["value"] = value
        self._send(name, {"method": "update", "state": {"value": value}, "buffer_paths": []})


@pytest.fixture
def own(make_kernel):
    """A kernel of the test's own."""
    kernel = make_kernel()
    kernel.do("import mpiparallel as ipp")
    return kernel


@pytest.fixture
def page(own):
    return FrontEnd(own)


def left(state_dir, cluster_id: str) -> list[str]:
    """The processes of a cluster."""
    found = [" ".join(process.cmdline()) for process in processes_of(state_dir)]
    return [command for command in found if f"cluster-{cluster_id}" in command]


def test_a_cluster_is_run_by_buttons(page, state_dir):
    shown = page.run("cluster = ipp.Cluster(n=2, cluster_id='panel')\ncluster")
    (bundle,) = shown.bundles()
    assert {"text/plain", "text/html", WIDGET} <= {*bundle}
    assert "Cluster: not started" in bundle["text/plain"]
    assert bundle[WIDGET]["model_id"] in page.models
    assert page.shows("not started")
    assert page.can_click("Start") and not page.can_click("Stop") and not page.can_click("Resize")

    page.click("Start")
    page.until(lambda: page.shows("starting 2 engines") and not page.shows("apply_sync"))
    assert page.run("print(6 * 7)").stdout == "42\n"  # the kernel is free meanwhile
    page.until(lambda: page.shows("runs, 2 engines") and page.can_click("Stop"))
    assert not page.can_click("Start")
    page.until(lambda: page.shows('title="engine 1 on '))  # though nobody has a client
    page.run("rc = cluster.connect_client_sync()\nrc[:]['kept'] = 1")

    page.put("engines", 3)
    page.click("Resize")
    page.until(lambda: page.shows("runs, 3 engines in 2 worlds") and page.can_click("Resize"))
    assert page.kernel.value("rc.ids") == [0, 1, 2] and page.kernel.value("rc[:2]['kept']") == [1, 1]
    page.put("engines", 2)
    page.click("Resize")
    page.until(lambda: page.shows("runs, 2 engines") and page.can_click("Resize"))

    page.put("engines", 1)  # which is not possible without loss: it asks
    page.click("Resize")
    page.until(lambda: page.shows("only whole worlds can leave") and page.can_click("Restart as 1"))
    assert page.kernel.value("rc.ids") == [0, 1]
    page.click("Restart as 1")
    page.until(lambda: page.shows("runs, 1 engine") and page.can_click("Resize"))
    assert page.kernel.value("rc.ids") == [0]

    page.put("Logs", True)
    page.until(lambda: page.shows("<b>controller</b>") and page.shows("<b>engines "))
    page.click("Stop")
    page.until(lambda: page.shows("not started") and page.can_click("Start"))
    assert left(state_dir, "panel") == []


def test_the_panel_follows_what_code_does_and_what_happens(page):
    page.run("import os, signal\ncluster = ipp.Cluster(n=3, environment={'MPIPARALLEL_FT': '0'})\ncluster")
    page.run("rc = cluster.start_and_connect_sync(1); cluster.resize_sync(2, restart=True)")
    page.until(lambda: page.models[page.find("engines")]["value"] == 2)
    page.until(lambda: page.shows("runs, 2 engines"))
    again = page.run("cluster").bundles()[0]
    assert again[WIDGET]["model_id"] in page.models  # the same panel, once more
    page.run("os.kill(cluster.engine_set.pid, signal.SIGKILL)")
    page.until(lambda: page.shows("mpiexec was killed by SIGKILL"))
    page.until(lambda: page.shows("cluster.restart_engines_sync("))
    page.run("cluster.restart_engines_sync(); cluster.wait_for_sets_sync(rc, list(cluster.engines))")
    page.until(lambda: page.shows("runs, 2 engines") and not page.shows("restart_engines_sync"))
    page.run("cluster.stop_cluster_sync()")
    page.until(lambda: page.shows("not started"))
    # Nothing looks for changes any more.
    threads = "[one.name for one in __import__('threading').enumerate() if 'mpiparallel' in one.name]"
    assert wait_until(lambda: page.kernel.value(threads) == []), page.kernel.value(threads)


def test_a_start_that_is_given_up(page, state_dir):
    page.run("cluster = ipp.Cluster(n=2, cluster_id='up')\ncluster")
    page.click("Start")
    page.until(lambda: page.can_click("Give up"))
    page.click("Give up")
    page.until(lambda: page.shows("was given up") and page.can_click("Start"))
    assert wait_until(lambda: not left(state_dir, "up"))
    page.click("Start")
    page.until(lambda: page.shows("runs, 2 engines") and page.can_click("Stop"))
    page.click("Stop")
    page.until(lambda: page.can_click("Start"))


def test_a_start_that_fails_says_why(page, state_dir, tmp_path):
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no <room> left"; exit 3\n')
    mpiexec.chmod(0o755)
    page.run(f"import os; os.environ['MPIPARALLEL_MPIEXEC'] = {str(mpiexec)!r}")
    page.run("cluster = ipp.Cluster(n=2, cluster_id='fails')\ncluster")
    page.click("Start")
    page.until(lambda: page.shows("no &lt;room&gt; left") and page.can_click("Start"))
    assert left(state_dir, "fails") == []


def test_without_ipywidgets_a_cluster_is_text(own):
    page = own.do("import sys\nsys.modules['ipywidgets'] = None\nipp.Cluster(n=2)")
    (bundle,) = page.bundles()
    assert {*bundle} == {"text/plain", "text/html"} and "start_and_connect_sync" in bundle["text/html"]


@pytest.mark.parametrize("now", [False, True], ids=["restarted", "killed"])
def test_a_kernel_with_a_panel_ends(page, state_dir, now):
    page.run("cluster = ipp.Cluster(n=2, cluster_id='ends')\ncluster")
    page.click("Start")
    page.until(lambda: page.shows("runs, 2 engines"))
    page.kernel.restart(now=now)
    assert wait_until(lambda: not left(state_dir, "ends"), 20)


# ---------------------------------------------------------------- in a running event loop


def test_coroutines_leave_the_event_loop_free(own, state_dir):
    own.do(
        "import asyncio, time\n"
        "gaps = []\n"
        "async def tick():\n"
        "    while True:\n"
        "        began = time.monotonic()\n"
        "        await asyncio.sleep(0.01)\n"
        "        gaps.append(time.monotonic() - began)\n"
        "ticking = asyncio.ensure_future(tick())\n"
        "cluster = ipp.Cluster(n=2, cluster_id='loop')\n"
        "rc = await cluster.start_and_connect(activate=True)"
    )
    assert own.value("rc.ids") == [0, 1]
    own.do("await cluster.resize(3)")
    assert own.value("rc.ids") == [0, 1, 2]
    own.do("name = await cluster.start_engines(1)\nrc.wait_for_engines(4)\nawait cluster.stop_engines(name)")
    assert wait_until(lambda: own.value("rc.ids") == [0, 1, 2])
    own.do("other = await cluster.connect_client()\nother.close()")
    own.do("await cluster.restart_engines(list(cluster.engines)[1])")
    assert wait_until(lambda: own.value("rc.ids") == [0, 1, 2], 60)
    own.do("await cluster.resize(2, restart=True)")
    assert own.value("rc[:].apply_sync(lambda: mpi_size)") == [2, 2]
    own.do("await cluster.stop_cluster()\nticking.cancel()")
    assert left(state_dir, "loop") == []
    assert own.value("max(gaps)") < 5.0 and own.value("len(gaps)") > 100


def test_a_start_that_is_cancelled_leaves_nothing(own, state_dir):
    own.do(
        "import asyncio\ncluster = ipp.Cluster(n=2, cluster_id='late')\n"
        "try:\n"
        "    await asyncio.wait_for(cluster.start_and_connect(), 0.3)\n"
        "except asyncio.TimeoutError:\n"
        "    pass\n"
    )
    assert left(state_dir, "late") == []
    own.do("async with cluster as rc:\n    assert rc.ids == [0, 1]")


def test_the_methods_that_block_work_in_a_cell_too(own):
    own.do(
        "cluster = ipp.Cluster(n=0)\ncluster.start_controller_sync()\n"
        "name = cluster.start_engines_sync(1)\nrc = cluster.connect_client_sync()\nrc.wait_for_engines(1)\n"
        "cluster.signal_engines_sync(0)\ncluster.stop_engines_sync(name)\ncluster.stop_controller_sync()\n"
        "cluster.stop_cluster_sync()"
    )


def test_cards_in_a_notebook(kernel):
    for code, text in (
        ("rc", "Client: 4 engines on "),
        ("view", "DirectView: 4 engines on "),
        ("rc.load_balanced_view()", "LoadBalancedView: 4 engines on "),
        ("ar = view.apply_async(lambda: mpi_rank); ar.wait(); ar", "AsyncResult of <lambda>: finished"),
        ("rc.load_balanced_view().imap(abs, [1])", "LazyMapIterator: all is sent"),
        ("ipp.ClusterManager()", "ClusterManager: no clusters"),
    ):
        (bundle,) = kernel.do(code).bundles()
        assert bundle["text/plain"].startswith(text)
        assert "<div" in bundle["text/html"]
    assert "<Client: 4 engines" in kernel.do("[rc]").bundles()[0]["text/plain"]
    assert "rc[:].apply_sync(f, x)" in kernel.do("rc").mime("text/html")[0]
