"""A peer with a flight recorder, as a program: it reduces until its standard input is closed or an operation fails.

Arguments: the coordinator, the peer's name, how many there are. It makes the file that FLYING_READY names when it is under way;
with FLYING_IDLES it calls nothing more then.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

import numpy as np

import collcomm

WARM = 40
heard: list[int] = []


def users_handler(number: int, frame: FrameType | None) -> None:
    heard.append(number)


def main(coordinator: str, name: str, size: int) -> None:
    signal.signal(signal.SIGUSR1, users_handler)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    comm = collcomm.join(coordinator, name=name, min_size=size, timeout=30.0, on_failure="raise", op_timeout=30.0)
    try:
        reduce_on(comm, ended)
    except collcomm.CollcommError:
        pass  # it is written down
    finally:
        comm.leave()
    print(f"{socket.gethostname()}: the user's handler has heard {len(heard)} signals", flush=True)


def reduce_on(comm: collcomm.Communicator, ended: threading.Event) -> None:
    """All stop together: when anybody is told to."""
    x, turns = np.ones(1 << 15, dtype=np.float32), 0
    while True:
        turns += 1
        comm.all_reduce(x, out=np.empty_like(x))
        if comm.all_reduce(np.array([ended.is_set()], dtype=np.int32), op="max")[0]:
            return
        if turns == WARM:
            Path(os.environ["FLYING_READY"]).touch()
            if "FLYING_IDLES" in os.environ:
                ended.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
