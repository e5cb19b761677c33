#!/usr/bin/env bash
# Peers under torchrun.
#
#   examples/launch/torchrun.sh                                          # three peers on this machine
#   NNODES=2 NODE_RANK=0 HEAD=node-0 examples/launch/torchrun.sh         # on node-0, and
#   NNODES=2 NODE_RANK=1 HEAD=node-0 examples/launch/torchrun.sh         # on the other one; both with the same COLLCOMM_SECRET
#
# PEERS: on each node. COMMAND: what a peer runs. Arguments go to it.
#
# torchrun ends and starts again *all* processes of *all* nodes of a rendezvous when one of them dies. Nobody needs that here, since the
# others go on, and whoever comes back is given the state. Two ways to have only the dead one started again:
#   RESTART=keep    (default) one torchrun per node, joined by a rendezvous, as platforms start it for you, with --max-restarts 0; its
#                   processes are keepers (keep.py), each of which starts its own peer again.
#   RESTART=agent   one torchrun per peer, without a rendezvous in common: --max-restarts then counts for that peer alone.
#
# SIGTERM to this script, to a torchrun, or to one peer: who gets it leaves at its next safe point.
set -euo pipefail
# shellcheck source=examples/launch/coordinator.sh
. "$(dirname "$0")/coordinator.sh"

PEERS=${PEERS:-3} NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0} HEAD=${HEAD:-127.0.0.1} MAX_RESTARTS=${MAX_RESTARTS:-3}
RDZV_PORT=${RDZV_PORT:-29400}
export COLLCOMM_MIN_SIZE=${COLLCOMM_MIN_SIZE:-$((NNODES * PEERS))}
export COLLCOMM_COORDINATOR=${COLLCOMM_COORDINATOR:-$HEAD:$COLLCOMM_PORT}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
read -r -a command <<<"${COMMAND:-$PYTHON $LAUNCH/train.py}"

keepers() {
    hand_on "$PYTHON" -m torch.distributed.run --shutdown-timeout 30 --nnodes "$NNODES" --node-rank "$NODE_RANK" \
        --nproc-per-node "$PEERS" --rdzv-backend c10d --rdzv-endpoint "$HEAD:$RDZV_PORT" --rdzv-id collcomm --max-restarts 0 \
        "$LAUNCH/keep.py" --restarts "$MAX_RESTARTS" "${command[@]}" "$@"
}

agents() {
    local pids=() pid status=0
    for ((peer = 0; peer < PEERS; peer++)); do
        # each sees one GPU, if there are any: LOCAL_RANK is 0 in all of them
        CUDA_VISIBLE_DEVICES=$peer "$PYTHON" -m torch.distributed.run --shutdown-timeout 30 --standalone \
            --nproc-per-node 1 --max-restarts "$MAX_RESTARTS" --no-python "${command[@]}" "$@" &
        pids+=($!)
    done
    # shellcheck disable=SC2064  # they are known now
    trap "kill -TERM ${pids[*]} 2>/dev/null || true" TERM INT
    for pid in "${pids[@]}"; do
        until wait "$pid" || { status=$?; ! kill -0 "$pid" 2>/dev/null; }; do :; done
    done
    return "$status"
}

if [ "$NODE_RANK" = 0 ]; then start_coordinator "$HEAD"; fi
case ${RESTART:-keep} in
keep) keepers "$@" ;;
agent) agents "$@" ;;
*) echo "RESTART is keep or agent" >&2 && exit 2 ;;
esac
