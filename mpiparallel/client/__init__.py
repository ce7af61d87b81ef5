"""What a user holds: the client, its views, and the results they return.

One I/O thread (`connection`) owns the socket; everything else runs in the user's threads and meets it in
`tasks`. Nothing here imports mpi4py.
"""
