"""``mpiparallel doctor``: what works here, what does not, and what to do about it.

``checks`` names them all and runs them, each within its time. A check is a function of a `Context` that
yields `Finding`: ``here`` looks at this machine, ``clusters`` at those that run, ``modules`` at what a
profile loads, ``mpi`` at the library and mpiexec, ``slurm`` at the batch system, ``jobs`` at its nodes,
``ssh`` at other hosts. MPI is never loaded into this process: programs of ``engine`` are asked.
"""
