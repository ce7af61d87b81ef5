"""A tour of the direct interface, one call after the other.

Start four engines, run the tour, and stop them again::

    mpiparallel start -n 4 --daemonize
    python examples/tutorial.py
    mpiparallel stop
"""

import numpy as np

import mpiparallel as ipp


def show(expression, value):
    """Print what was typed and what came back."""
    print(f"{expression:<52} -> {value}")


def chapter(title):
    print(f"\n{title}\n{'-' * len(title)}")


chapter("A client sees the engines")
# A profile is a name for one of your clusters; "default" is the one that `mpiparallel start` starts.
rc = ipp.Client(profile="default")
show("rc.ids", rc.ids)
show("len(rc)", len(rc))

chapter("Views choose engines")
show("rc[0]", rc[0])
show("rc[0, 1, 2, 3]", rc[0, 1, 2, 3])
show("rc[0:2]", rc[0:2])
show("rc[2:4]", rc[2:4])
show("rc[::2]", rc[::2])
show("rc[1::2]", rc[1::2])
dview = rc[:]
show("dview = rc[:]", dview)

chapter("Run a function elsewhere")
rc.block = True  # views made from here on wait for their results


def mul(a, b):
    return a * b


def summary():
    """Tell about the process that runs this."""
    import os
    import socket
    import sys

    return {
        "cwd": os.getcwd(),
        "Python": sys.version,
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
    }


show("mul(5, 6)", mul(5, 6))
show("rc[0].apply(mul, 5, 6)", rc[0].apply(mul, 5, 6))
show("rc[:].apply(mul, 5, 6)", rc[:].apply(mul, 5, 6))
here, there = summary(), rc[0].apply(summary)
show("summary()['pid'], rc[0].apply(summary)['pid']", (here["pid"], there["pid"]))
everywhere = rc[:].apply(summary)
show("[d['pid'] for d in rc[:].apply(summary)]", [d["pid"] for d in everywhere])
show("list(map(mul, range(1, 10), range(2, 11)))", list(map(mul, range(1, 10), range(2, 11))))
show("list(dview.map(mul, range(1, 10), range(2, 11)))", list(dview.map(mul, range(1, 10), range(2, 11))))

chapter("Put names on the engines and get them back")
dview.block = True
show("dview.push(dict(a=1.032, b=3453))", dview.push({"a": 1.032, "b": 3453}))
show("dview.pull('a')", dview.pull("a"))
show("dview.pull('b', targets=0)", dview.pull("b", targets=0))
show("dview.pull(('a', 'b'))", dview.pull(("a", "b")))
ar = dview.pull("a", block=False)  # a promise: the call returned before the answer came
show("ar = dview.pull('a', block=False); ar.get()", ar.get())

chapter("Cut a sequence into parts and join them")
show("dview.scatter('a', range(16))", dview.scatter("a", range(16)))
show("dview['a']", dview["a"])
show("dview.gather('a')", dview.gather("a"))
dview.block = False
dview.scatter("a", range(32))
show("dview.block = False; dview.gather('a').get()", dview.gather("a").get())

chapter("Functions that always run on the engines")


@dview.remote(block=True)
def getpid():
    import os

    return os.getpid()


@dview.parallel(block=True)
def pmul(A, B):
    return A * B


A = np.random.random((64, 48))
show("getpid()", getpid())
show("(pmul(A, A) == A * A).all()", (pmul(A, A) == A * A).all())

chapter("Import here and there")
with rc[:].sync_imports():
    import json.decoder
show("rc[0].apply(lambda: json.decoder.__name__)", rc[0].apply(lambda: json.decoder.__name__))

rc.close()
