"""Tasks on several ranks at once, each with a communicator of its own, beside tasks on one.

    mpiparallel run -n 4 examples/gangs.py

A task of a view with ``ranks=k`` runs on k ranks of one world, which the controller finds. In it
`mpiparallel.current_comm()` holds just these ranks, so that MPI code runs as it would in a job of its own.
"""

import time

import mpiparallel as ipp


def heat(points, steps):
    """Let heat spread along a rod that the ranks of this task share; return how much there is."""
    import numpy as np
    from mpi4py import MPI

    import mpiparallel

    comm = mpiparallel.current_comm()
    rank, size = comm.Get_rank(), comm.Get_size()
    first, last = points * rank // size, points * (rank + 1) // size
    rod = np.zeros(last - first + 2)
    rod[1:-1] = np.where(abs(np.arange(first, last) - points // 2) < points // 10, 1.0, 0.0)
    left = rank - 1 if rank else MPI.PROC_NULL
    right = rank + 1 if rank < size - 1 else MPI.PROC_NULL
    for _ in range(steps):
        comm.Sendrecv(rod[1:2], left, recvbuf=rod[-1:], source=right)
        comm.Sendrecv(rod[-2:-1], right, recvbuf=rod[:1], source=left)
        rod[1:-1] += 0.25 * (rod[:-2] - 2 * rod[1:-1] + rod[2:])
    return round(comm.allreduce(float(rod[1:-1].sum())), 6), size


def main():
    with ipp.Client() as rc:
        rc.wait_for_engines(1, timeout=60)
        lview = rc.load_balanced_view()
        sizes = [size for size in (1, 2, 3, 4) if size <= len(rc)]
        began, results = time.perf_counter(), []
        for points in (500, 1000, 2000):
            for ranks in sizes:
                with lview.temp_flags(ranks=ranks, label=f"{points} points on {ranks}"):
                    results.append(lview.apply_async(heat, points, 200))
        print("task                    engines       heat")
        for result in results:
            values, engines = result.get(), result.engine_id
            values, engines = (values, engines) if isinstance(values, list) else ([values], [engines])
            assert len(set(values)) == 1, "all ranks of a task know the same sum"
            print(f"{result.label:<22}  {engines!s:<12}  {values[0][0]:.1f}")
        print(f"{len(results)} tasks in {time.perf_counter() - began:.2f} s")

        with lview.temp_flags(ranks=min(2, len(rc))):
            sums = lview.map_sync(lambda points: heat(points, 50)[0], [100, 200, 300, 400])
        print("a map of gangs:", [values[0] for values in sums])


if __name__ == "__main__":
    main()
