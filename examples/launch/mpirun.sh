#!/usr/bin/env bash
# Peers under mpirun of Open MPI 5: one of the system, or the wheel of `pip install 'collcomm[mpi]'`.
#
#   examples/launch/mpirun.sh                        # three peers on this machine, which join a coordinator
#   TRANSPORT=mpi examples/launch/mpirun.sh          # the same, but all bytes go over MPI, and there is no coordinator
#   PEERS=8 HOSTFILE=hosts HEAD=$(hostname) examples/launch/mpirun.sh      # on several hosts, with COLLCOMM_SECRET set
#
# TRANSPORT=join  mpirun only starts the processes. It would end all of them when one dies, so each has a keeper (keep.py), which starts
#                 its peer again, as a newcomer.
# TRANSPORT=mpi   the group is the MPI job: ranks may leave and, with ULFM, die; nobody comes back.
#
# mpirun answers SIGTERM by ending the job its own way, so this script hands it on as SIGUSR1, which mpirun passes to all ranks.
set -euo pipefail
# shellcheck source=examples/launch/coordinator.sh
. "$(dirname "$0")/coordinator.sh"

PEERS=${PEERS:-3} HEAD=${HEAD:-127.0.0.1} TRANSPORT=${TRANSPORT:-join} MAX_RESTARTS=${MAX_RESTARTS:-3}
MPIRUN=${MPIRUN:-$("$PYTHON" -c 'from collcomm.transports.launchers import find_mpirun; print(find_mpirun() or "")')}
[ -n "$MPIRUN" ] || { echo "no mpirun here: pip install 'collcomm[mpi]', or set MPIRUN" >&2 && exit 2; }
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
read -r -a command <<<"${COMMAND:-$PYTHON $LAUNCH/train.py}"
options=(-n "$PEERS" --oversubscribe --forward-signals SIGUSR1)
if [ "$(id -u)" = 0 ]; then options+=(--allow-run-as-root); fi
if [ -n "${HOSTFILE:-}" ]; then options+=(--hostfile "$HOSTFILE"); fi

case $TRANSPORT in
join)
    export COLLCOMM_COORDINATOR=${COLLCOMM_COORDINATOR:-$HEAD:$COLLCOMM_PORT} COLLCOMM_MIN_SIZE=${COLLCOMM_MIN_SIZE:-$PEERS}
    start_coordinator "$HEAD"
    for name in COLLCOMM_COORDINATOR COLLCOMM_MIN_SIZE COLLCOMM_SECRET OMP_NUM_THREADS; do
        if [ -n "${!name:-}" ]; then options+=(-x "$name"); fi
    done
    command=("$PYTHON" "$LAUNCH/keep.py" --restarts "$MAX_RESTARTS" "${command[@]}")
    ;;
mpi)
    unset COLLCOMM_COORDINATOR
    options+=(--with-ft ulfm)
    ;;
*) echo "TRANSPORT is join or mpi" >&2 && exit 2 ;;
esac
SIGNAL=USR1 hand_on "$MPIRUN" "${options[@]}" "${command[@]}" "$@"
