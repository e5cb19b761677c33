"""Keep one peer alive under a launcher that ends everybody when one process dies, as torchrun and mpirun do.

    torchrun --nproc-per-node 4 examples/launch/keep.py python examples/launch/train.py

The launcher sees this process, which starts the command, hands on signals, and starts the command again when it dies: it joins
the group as a newcomer, and nobody else is restarted. Exit status: that of the command, or 128 + the signal that has ended it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1


class Keeper:
    """Of one command. ``restarts``: how often it is started again, at most."""

    def __init__(self, command: list[str], restarts: int):
        self._command = command
        self._restarts = restarts
        self._told: int | None = None  # a signal has come: what ends now is not started again
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        for number in HANDED_ON:
            signal.signal(number, self._hand_on)
        for left in range(self._restarts, -1, -1):
            process = self._start()
            if self._told is not None and process.poll() is None:  # it came before there was anybody to hand it to
                process.send_signal(self._told)
            status = process.wait()
            if status == 0 or self._told is not None or not left:
                break
            print(f"{self._command[-1]} ended with status {status}: it is started again", file=sys.stderr, flush=True)
        return status if status >= 0 else 128 - status

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(self._command, preexec_fn=die_with(os.getpid()))
        return self._process

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._told = number
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def die_with(keeper: int) -> Callable[[], None]:
    """For the child, before it becomes the command: if its keeper is killed, it is told to leave."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != keeper:
                os._exit(1)

    return prepare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=3, help="how often it is started again (default: %(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the program and its arguments")
    chosen = parser.parse_args()
    if not chosen.command:
        parser.error("give the command of the peer")
    if not 0 <= chosen.restarts <= 1000:
        parser.error("--restarts must be from 0 to 1000")
    return Keeper(chosen.command, chosen.restarts).run()


if __name__ == "__main__":
    sys.exit(main())
