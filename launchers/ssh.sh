#!/bin/sh
# Start a part of a cluster on another host with ssh.
#
# mpiparallel runs this file. To change how it comes there at your site, put a copy of it at
# ~/.config/mpiparallel/launchers/ssh.sh and edit that; it needs no mpiparallel code. ~/.ssh/config counts as
# usual: ports, users, keys, ProxyJump.
#
#   arguments               those of ssh: [options] host command
#
# What is to be started is said on standard input, and its output comes back. When the connection ends, so does
# what was started. Keep `exec`: mpiparallel sends its signals to the process that it started.
set -eu

# Nobody is there to answer a question, and a connection that has died is to be noticed.
exec ssh -T -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15 -o ServerAliveCountMax=3 "$@"
