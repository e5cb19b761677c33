# shellcheck shell=bash
# For the launch files beside this one, to be sourced: a coordinator for as long as a job runs, and signals handed on.

LAUNCH=${LAUNCH:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
PYTHON=${PYTHON:-python}
COLLCOMM_PORT=${COLLCOMM_PORT:-48148}
export COLLCOMM_PORT

# start_coordinator HOST: on this machine, which the peers reach as HOST. Other machines need the same COLLCOMM_SECRET.
start_coordinator() {
    local bind=127.0.0.1
    if [ "$1" != 127.0.0.1 ] && [ "$1" != localhost ]; then
        bind=0.0.0.0
        : "${COLLCOMM_SECRET:?other machines are to join: set COLLCOMM_SECRET, long and random, the same on all of them}"
    fi
    "$PYTHON" -m collcomm coordinator --bind "$bind:$COLLCOMM_PORT" &
    COORDINATOR_PID=$!
    trap stop_coordinator EXIT
}

stop_coordinator() {
    kill "$COORDINATOR_PID" 2>/dev/null || true
    wait "$COORDINATOR_PID" 2>/dev/null || true
}

# hand_on COMMAND...: run it, and hand on the signal that tells this job to go as $SIGNAL (default: TERM). Returns its exit status.
hand_on() {
    "$@" &
    local child=$! status=0
    # shellcheck disable=SC2064  # the child is known now
    trap "kill -${SIGNAL:-TERM} $child 2>/dev/null || true" TERM INT USR1
    while :; do
        status=0
        wait "$child" || status=$? # a trap ends the wait, not the child
        kill -0 "$child" 2>/dev/null || break
    done
    trap - TERM INT USR1
    return "$status"
}
