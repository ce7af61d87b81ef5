"""Start the processes of a cluster on this machine: command lines, MPI's differences, process groups.

`cluster.py` and the command call it. It knows programs and files and no message of the protocol.
"""
