"""Tasks that wait for one another: a graph of them, sent at one go, in any order that names come before use.

    mpiparallel run -n 4 examples/dependency_graph.py

A report is made of four chapters, each from data of its own. ``after`` says what must have ended before a
task begins, ``follow`` also that it runs where that was done (here: where the data is), and ``@ipp.depend``
on which engines a function can run at all.
"""

import os
import time

import mpiparallel as ipp

CHAPTERS = ["spring", "summer", "autumn", "winter"]


@ipp.require("time", numbers=[3, 1, 4, 1, 5, 9, 2, 6])
def fetch(name):
    """Get the data of a chapter; it stays on this engine."""
    time.sleep(0.05)  # imported there, as `numbers` is defined there, by ipp.require
    globals()[f"data_{name}"] = [len(name) * number for number in numbers]  # noqa: F821
    return os.getpid()


def summarize(name):
    """Work where the data is."""
    data = globals()[f"data_{name}"]
    return name, sum(data) / len(data), os.getpid()


def even_engine():
    return engine_id % 2 == 0  # noqa: F821 - every engine has this name


@ipp.depend(even_engine)
def write_report(title):
    """Only some engines have a printer."""
    return f"{title}, printed by engine {engine_id}"  # noqa: F821


def main():
    with ipp.Client() as rc:
        rc.wait_for_engines(1, timeout=60)
        lview = rc.load_balanced_view()
        fetched, summaries = {}, {}
        for name in CHAPTERS:
            fetched[name] = lview.apply_async(fetch, name)
            with lview.temp_flags(follow=fetched[name]):
                summaries[name] = lview.apply_async(summarize, name)
        with lview.temp_flags(after=list(summaries.values()), retries=2):
            report = lview.apply_async(write_report, "A year")

        print(report.get())
        for name in CHAPTERS:
            chapter, mean, pid = summaries[name].get()
            print(f"  {chapter:<7} mean {mean:5.2f}, where its data was: {pid == fetched[name].get()}")
        last = max(summary.completed for summary in summaries.values())
        print("the report began after all of them:", report.started >= last)

        # A task that fails takes down what can only come after it, and says why.
        broken = lview.apply_async(divmod, 1, 0)
        with lview.temp_flags(after=broken):
            never = lview.apply_async(write_report, "Nothing")
        try:
            never.get()
        except ipp.ImpossibleDependency as problem:
            print(f"after a failure: {problem.ename}")
        with lview.temp_flags(after=ipp.Dependency([broken], success=False, failure=True)):
            print("if it fails:", lview.apply_sync(str.upper, "clean up"))


if __name__ == "__main__":
    main()
