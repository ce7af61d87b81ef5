"""The engines of one world: what runs in every rank of the MPI job.

``world`` knows MPI, ``mail`` moves messages between ranks, ``courier`` owns both, ``bridge`` joins rank 0's
courier to the controller, ``executor`` runs user code on the main thread.
"""
