"""Plain sockets in a laboratory, as a program for its hosts: python traffic.py '{"task": ...}'; and its callers."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

PROGRAM = [sys.executable, "-I", "-S", __file__]
BLOCK = bytes(256 << 10)
END_SECONDS = 20.0


def serve(address: str, port: int) -> None:
    """Takes connections: of those that begin with "s" it swallows the rest; others get back what they send. A line on standard
    input asks for the bytes swallowed so far, and when that was."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server((address, port), backlog=512)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    kinds: dict[socket.socket, bytes] = {}
    swallowed = 0
    _say({"ready": True})
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                taken, _ = listener.accept()
                selector.register(taken, selectors.EVENT_READ)
                continue
            if key.fileobj is sys.stdin:
                if not sys.stdin.readline():
                    return
                _say({"swallowed": swallowed, "at": time.monotonic()})
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                kind = kinds.get(connection) or kinds.setdefault(connection, connection.recv(1, socket.MSG_PEEK))
                if kind == b"s":
                    # MSG_TRUNC: TCP throws the data away, uncopied
                    got = len(connection.recv(1 << 22, socket.MSG_TRUNC | socket.MSG_DONTWAIT))
                else:
                    connection.sendall(data := connection.recv(4096))
                    got = len(data)
            except BlockingIOError:
                continue
            except OSError:
                got = 0
            swallowed += got
            if not got:
                selector.unregister(connection)
                kinds.pop(connection, None)
                connection.close()


def send(target: str, port: int, seconds: float, streams: int) -> None:
    """As much as goes, in ``streams`` connections, for ``seconds``."""
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection((target, port), timeout=10) for _ in range(streams)]
    for one in sockets:
        one.sendall(b"s")
        one.setblocking(False)
        selector.register(one, selectors.EVENT_WRITE)
    _say({"ready": True})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(max(0.0, end - time.monotonic())):
            try:
                key.fileobj.send(BLOCK)  # type: ignore[union-attr]
            except BlockingIOError:
                pass
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # drop what is queued
        one.close()


def dial(targets: list[tuple[str, int]], seconds: float, count: int) -> None:
    """Connect to all at once, and send a byte to and fro ``count`` times; tells for each the seconds, or the error."""
    with ThreadPoolExecutor(len(targets)) as pool:
        _say({"answers": list(pool.map(lambda target: _dial(*target, seconds, count), targets))})


def _dial(target: str, port: int, seconds: float, count: int) -> dict[str, Any]:
    try:
        with socket.create_connection((target, port), timeout=seconds) as one:
            trips = []
            for _ in range(count):
                begun = time.monotonic()
                one.sendall(b"e")
                one.recv(1)
                trips.append(time.monotonic() - begun)
            return {"trips": trips}
    except OSError as error:
        return {"error": type(error).__name__}


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


class Server:
    """`serve` in a host, as a context."""

    def __init__(self, lab: Any, host: int | None, port: int = 5001):
        address = lab.hub_address if host is None else lab.address(host)
        command = [*lab.enter(host), *PROGRAM, json.dumps({"task": "serve", "address": address, "port": port})]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address, self.port = address, port

    def __enter__(self) -> Server:
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=END_SECONDS)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told

    def swallowed(self) -> tuple[int, float]:
        """(bytes so far, by which time)."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told = self._read()
        return told["swallowed"], told["at"]

    def rate(self, seconds: float) -> float:
        """Bytes/s that arrive during so many seconds."""
        first, begun = self.swallowed()
        time.sleep(seconds)
        last, ended = self.swallowed()
        return (last - first) / (ended - begun)


@contextmanager
def sending(lab: Any, source: int, server: Server, streams: int = 1, seconds: float = 60.0) -> Iterator[None]:
    """Traffic from a host to a server, while the context lasts."""
    case = {"task": "send", "target": server.address, "port": server.port, "seconds": seconds, "streams": streams}
    command = [*lab.enter(source), *PROGRAM, json.dumps(case)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), "the sender could not connect"
            yield
        finally:
            process.kill()


def measured_rate(
    lab: Any, source: int, target: int, streams: int = 1, warm: float = 0.4, seconds: float = 0.8
) -> float:
    """Bytes/s of TCP data from one host to another, after ``warm`` seconds."""
    with Server(lab, target) as server, sending(lab, source, server, streams):
        time.sleep(warm)
        return server.rate(seconds)


def all_dialled(
    lab: Any, source: int | None, targets: Sequence[tuple[str, int]], seconds: float = 5.0, count: int = 1
) -> list[dict[str, Any]]:
    """What `dial` tells from a host: of each target "trips", their seconds, or "error", the exception's name."""
    case = {"task": "dial", "targets": targets, "seconds": seconds, "count": count}
    command = [*lab.enter(source), *PROGRAM, json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + END_SECONDS)
    told: list[dict[str, Any]] = json.loads(done.stdout)["answers"]
    return told


def dialled(lab: Any, source: int | None, server: Server, seconds: float = 5.0, count: int = 1) -> dict[str, Any]:
    """`all_dialled` of one server."""
    return all_dialled(lab, source, [(server.address, server.port)], seconds, count)[0]


if __name__ == "__main__":
    _case = json.loads(sys.argv[1])
    {"serve": serve, "send": send, "dial": dial}[_case.pop("task")](**_case)
