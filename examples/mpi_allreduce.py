"""MPI between engines, driven from a prompt: a sum over all ranks, and a halo exchange.

Engines are the ranks of one MPI job, so a function that is applied to all of them may use
`comm`, `mpi_rank` and `mpi_size`, which every engine has by itself.

    python examples/mpi_allreduce.py
"""

# ruff: noqa: F821 - `comm`, `mpi_rank` and their like are names that every engine has

import numpy as np

import mpiparallel as ipp

ENGINES = 4


def norm_of_all():
    """Return the norm of a vector that is spread over the ranks; every rank gets the same."""
    return float(np.sqrt(comm.allreduce(float(part @ part), op=MPI.SUM)))


def second_derivative(h):
    """Return this rank's part of u'' by central differences; the neighbours' edge values come by MPI."""
    left = mpi_rank - 1 if mpi_rank > 0 else MPI.PROC_NULL
    right = mpi_rank + 1 if mpi_rank < mpi_size - 1 else MPI.PROC_NULL
    u = np.empty(len(part) + 2)
    u[1:-1] = part
    comm.Sendrecv(u[1:2], left, recvbuf=u[-1:], source=right)
    comm.Sendrecv(u[-2:-1], right, recvbuf=u[:1], source=left)
    return (u[:-2] - 2 * u[1:-1] + u[2:]) / h**2


def main():
    with ipp.Cluster(n=ENGINES) as rc:
        view = rc[:]
        vector = np.arange(1.0, 101.0)
        view.scatter("part", vector, block=True)
        print("comm.allreduce: the norm of 1..100, as every rank knows it")
        for rank, norm in enumerate(view.apply_sync(norm_of_all)):
            print(f"  rank {rank}: {norm:.6f}")
        print(f"  numpy.linalg.norm here: {np.linalg.norm(vector):.6f}\n")

        x, h = np.linspace(0, np.pi, 401, retstep=True)
        view.scatter("part", np.sin(x), block=True)
        result = np.concatenate(view.apply_sync(second_derivative, h))
        error = np.abs(result + np.sin(x))[1:-1].max()  # sin'' = -sin; the two ends have one neighbour only
        print(f"halo exchange: the largest error of sin'' on {len(x)} points over {len(view)} ranks")
        print(f"  {error:.2e} (h^2/12 = {h * h / 12:.2e})")


if __name__ == "__main__":
    main()
