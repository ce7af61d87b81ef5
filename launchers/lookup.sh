#!/bin/sh
# Tells where clusters of this user are on this host, and how a batch job is.
#
# A client on another host sends it to a plain shell here by ssh, so that mpiparallel need not be in the PATH
# that such a shell has. A site whose folders are elsewhere can edit its copy, on the client's side.
#
# The client puts variables before it:
#   mark  begins each line of the answer, which sets them apart from what start-up files of a shell print
#   file  the one connection file to show; empty: those of all clusters
#   job   the batch job to ask about; may be empty
LC_ALL=C
export LC_ALL
mark=${mark:?} file=${file-} job=${job-}

tell() { printf '%s %s\n' "$mark" "$*"; }

# The value of a string or a number in JSON that is written one to a line.
field() { sed -n 's/^ *"'"$1"'": *"\{0,1\}\([^",]*\)"\{0,1\},\{0,1\} *$/\1/p' "$2"; }

show() {
    [ -f "$1" ] || return 0
    tell file "$1"
    # shellcheck disable=SC2012  # find -printf and stat are not the same everywhere
    tell mode "$(ls -ldL "$1" | cut -c 1-10)"
    cat "$1" && echo
    if [ "$(field host "$1" | head -n 1)" = "$here" ] &&
        ! kill -0 "$(field pid "$1" | head -n 1)" 2>/dev/null; then
        tell dead
    fi
    # Of the controller and of all sets of engines.
    cluster=${1%/*}/cluster.json
    if [ -f "$cluster" ]; then
        for one in $(field job "$cluster"); do tell of "$one"; done
    fi
    tell end
}

here=$(uname -n)
state=${MPIPARALLEL_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/mpiparallel}
tell host "$here"
tell state "$state"
tell command "$(command -v mpiparallel)"

if [ -n "$file" ]; then
    # shellcheck disable=SC2088  # it comes as somebody has written it elsewhere
    case $file in
        '~/'*) file=$HOME/${file#'~/'} ;;
    esac
    [ -d "$file" ] && file=$file/client.json
    tell looked "$file"
    show "$file"
else
    # The newest comes first.
    # shellcheck disable=SC2012
    ls -t "$state"/*/cluster*/client.json 2>/dev/null | while read -r one; do show "$one"; done
fi

if [ -n "$job" ]; then
    if command -v squeue >/dev/null; then
        tell job "$(squeue -h -t all -j "$job" -o '%T|%r|%S|%B|%A' 2>&1 | head -n 1)"
    else
        tell nosqueue
    fi
fi
tell complete
