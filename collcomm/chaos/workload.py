"""The program that `collcomm chaos` runs when none is given: a training loop that checks everything it is told.

    while True: compute for a while; all_reduce; update the state; step(); sync, when newcomers have come

Each result is compared with what numpy makes of the contributors' data, and the hash of the state with everybody else's at
each revision. Whoever finds a difference ends with code 3.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import xxhash

import collcomm

from ..bench.measure import parse_size

PATTERN = 1000
DIFFERENT = 3


def contribution(member: int, revision: int, elements: int) -> np.ndarray:
    """Whole numbers, so that sums are exact in any order."""
    return ((np.arange(elements, dtype=np.int64) * 7 + member * 31 + revision) % PATTERN).astype(np.float32)


def train(comm: collcomm.Communicator, options: argparse.Namespace) -> None:
    elements, count = parse_size(options.nbytes) // 4, parse_size(options.state) // 8
    state = {"w": np.zeros(max(1, count))}
    revision: int | None = 0 if comm.view.epoch <= 1 else None
    known: set[int] = set()  # a newcomer knows nobody, so it syncs first, as the members do that see it
    while True:
        if set(comm.view.ids) - known:
            revision = comm.sync(state, revision).revision
        known = set(comm.view.ids)
        assert revision is not None
        time.sleep(options.compute)
        me = comm.view.ids[comm.rank]
        mine = contribution(me, revision, elements)
        total = comm.all_reduce(mine)
        expected = sum(contribution(member, revision, elements) for member in comm.view.ids)
        if not np.array_equal(total, expected) or not np.array_equal(mine, contribution(me, revision, elements)):
            sys.exit(_differs(f"all_reduce at revision {revision} in view {comm.view.epoch} is not what numpy says"))
        state["w"] += total[0] + revision
        revision += 1
        digest = np.array([xxhash.xxh3_64_intdigest(state["w"].tobytes()), revision], np.uint64)
        digests = comm.all_gather(digest).reshape(-1, 2)
        if not (digests == digest).all():
            sys.exit(_differs(f"the state differs at revision {revision} in view {comm.view.epoch}: {digests}"))
        comm.step()


def _differs(text: str) -> int:
    print(text, flush=True)
    return DIFFERENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", type=float, default=0.05, metavar="SECONDS", help="of each step; %(default)s")
    parser.add_argument("--nbytes", default="256K", metavar="SIZE", help="of the all_reduce; %(default)s")
    parser.add_argument("--state", default="64K", metavar="SIZE", help="of the shared state; %(default)s")
    parser.add_argument("--min-size", type=int, default=2, help="of the group's first view; %(default)s")
    options = parser.parse_args()
    train(collcomm.join(min_size=options.min_size, timeout=60), options)


if __name__ == "__main__":
    main()
