"""mpi4py's own classes, by the names that they have in `mpi4py.MPI` before ours take their places there.

For the type checker they are `Any`: they are bases of classes which change the signatures of some methods,
and whose objects have attributes of ours.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

Comm: Any = MPI.Comm
Intracomm: Any = MPI.Intracomm
Topocomm: Any = MPI.Topocomm
Cartcomm: Any = MPI.Cartcomm
Graphcomm: Any = MPI.Graphcomm
Distgraphcomm: Any = MPI.Distgraphcomm
Request: Any = MPI.Request
Prequest: Any = MPI.Prequest
Grequest: Any = MPI.Grequest
Message: Any = MPI.Message
Status: Any = MPI.Status
Win: Any = MPI.Win
File: Any = MPI.File
Group: Any = MPI.Group
module: Any = MPI
