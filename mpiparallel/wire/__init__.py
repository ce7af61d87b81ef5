"""What travels: typed messages, their frames, and Python objects as bytes.

Nothing here knows sockets or MPI; controller, engines and clients meet only here.
"""

PROTOCOL = 1  # raised by every change that an older peer could misread
