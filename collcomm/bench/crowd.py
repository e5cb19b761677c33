"""What a crowd that says nothing costs a group at work: a thousand connections to the coordinator, and to a member's port."""

from __future__ import annotations

import contextlib
import selectors
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ..membership import Coordinator
from ..membership.strangers import make_room
from ..transports import parse_address
from .launch import Peers
from .measure import summary

CROWD = 1000  # connections to each of the two ports
PHASE_SECONDS = 6.0  # longer than a silent connection is left alone, so that all are replaced at least once
SETTLE_SECONDS = 0.5  # the crowd comes and goes in that time; what is measured then belongs to neither phase
START_SECONDS = 60.0
SECRET = "a crowd does not know it"


def bench_crowd(n: int, nbytes: int, rounds: int = 5) -> dict[str, Any]:
    """all_reduce of ``nbytes`` among ``n`` peers without and with the crowd, in turns; "ratio" is with to without."""
    make_room()
    with (
        tempfile.TemporaryDirectory() as folder,
        Coordinator("127.0.0.1:0", secret=SECRET) as coordinator,
        Peers() as peers,
    ):
        stop = Path(folder) / "stop"
        case = {"case": "steady", "n": n, "nbytes": nbytes, "secret": SECRET, "stop": str(stop)}
        for index in range(n):
            peers.start(index, {**case, "address": coordinator.address})
        events = peers.events(START_SECONDS + 4 * rounds * PHASE_SECONDS)
        for _ in range(n):
            next(event for event in events if event["event"] == "running")
        member = coordinator.snapshot()["default"]["members"][0]
        ports = [coordinator.port, parse_address(member[member.index("(") + 1 : -1])[1]]
        phases = []
        for turn in range(2 * rounds):
            with _Crowd(ports if turn % 2 else []) as crowd:
                began = time.monotonic() + SETTLE_SECONDS
                crowd.stay(PHASE_SECONDS)
                phases.append((began, time.monotonic(), turn % 2))
        stop.touch()
        done = next(event for event in events if event["event"] == "done")
        peers.wait(START_SECONDS)
    times: tuple[list[float], list[float]] = ([], [])
    for ended, took in done["times"]:
        for began, over, with_crowd in phases:
            if began <= ended <= over:
                times[with_crowd].append(took)
    alone, beset = summary(times[0]), summary(times[1])
    ratio = statistics.fmean(times[1]) / statistics.fmean(times[0])
    row = {"kind": "crowd", "peers": n, "nbytes": nbytes, "ours": alone, "crowd": beset, "views": done["epoch"]}
    return {**row, "ratio": ratio}


class _Crowd:
    """Silent connections to ``ports``; who is put out comes again."""

    def __init__(self, ports: list[int]):
        self._selector = selectors.DefaultSelector()
        for port in ports:
            for _ in range(CROWD):
                self._come(port)

    def _come(self, port: int) -> None:
        sock = socket.create_connection(("127.0.0.1", port), START_SECONDS)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, port)

    def stay(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                gone = key.fileobj
                assert isinstance(gone, socket.socket)
                with contextlib.suppress(OSError):
                    if gone.recv(4096):
                        continue  # a greeting of ZeroMQ
                self._selector.unregister(gone)
                gone.close()
                self._come(key.data)

    def __enter__(self) -> _Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
