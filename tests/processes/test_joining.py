"""Joining: what goes wrong, what it says, and that nothing is left over."""

from __future__ import annotations

import gc
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import collcomm
from collcomm.bench.launch import free_port
from tests.support.peers import run_peers_at


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def nothing_left_over() -> Iterator[None]:
    gc.collect()
    threads, files = threading.active_count(), descriptors()
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while (threading.active_count(), descriptors()) > (threads, files) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= threads, threading.enumerate()
    assert descriptors() <= files


def test_nobody_listens() -> None:
    with nothing_left_over(), pytest.raises(collcomm.CoordinatorUnavailable, match="nothing listens there"):
        collcomm.join("127.0.0.1:1", timeout=0.6)


def test_an_http_server_is_no_coordinator() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with pytest.raises(collcomm.CoordinatorUnavailable, match=r"not a collcomm coordinator|says nothing"):
                collcomm.join(f"127.0.0.1:{server.server_port}", timeout=1.5)
        finally:
            server.shutdown()
            thread.join(5)


def test_a_silent_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(collcomm.CoordinatorUnavailable, match="says nothing"):
            collcomm.join(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.8)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1", "1.2.3.4:99999", "::1:5", "", "a:b"])
def test_addresses_that_are_none(address: str) -> None:
    with nothing_left_over(), pytest.raises(ValueError, match=r"port|address|bracket"):
        collcomm.join(address, timeout=0.5)


def test_unresolvable_host() -> None:
    with pytest.raises(collcomm.CoordinatorUnavailable, match="no way to the coordinator"):
        collcomm.join("no-such-host.invalid:48148", timeout=1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_size": 0}, "min_size"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"on_failure": "explode"}, "on_failure"),
        ({"name": ""}, "name"),
        ({"group": "x" * 1000}, "group"),
        ({"streams": 0}, "streams"),
    ],
)
def test_options_that_make_no_sense(options: dict, text: str) -> None:
    with nothing_left_over(), pytest.raises(ValueError, match=text):
        collcomm.join("127.0.0.1:48148", **options)


def test_unknown_transport() -> None:
    with pytest.raises(collcomm.UnsupportedTransport, match="there is: cuda_ipc, shm, tcp"):
        collcomm.join("127.0.0.1:48148", transports=["carrier-pigeon"])


def test_rejections_say_why() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        with collcomm.join(coordinator.address, name="ann", min_size=1, timeout=10):
            for options, text in (
                ({"name": "ann"}, "called 'ann' is in group"),
                ({"name": "bob", "min_size": 3}, "min_size=1, you gave 3"),
                ({"name": "bob", "on_failure": "raise"}, "on_failure='retry'"),
            ):
                with pytest.raises(collcomm.JoinRejected, match=text):
                    collcomm.join(coordinator.address, timeout=5, **options)
            with collcomm.join(coordinator.address, name="ann", group="another", timeout=5) as other:
                assert other.size == 1


def test_not_admitted_in_time() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, nothing_left_over():
        with pytest.raises(collcomm.CoordinatorUnavailable, match="was not admitted in time: 2 peers"):
            collcomm.join(coordinator.address, min_size=2, timeout=0.6)


def test_joining_and_leaving_leaves_nothing() -> None:
    def body(comm: collcomm.Communicator) -> None:
        comm.all_reduce(np.ones(200_000))
        comm.all_reduce(np.ones(2), async_op=True).result(10)
        peer = (comm.rank + 1) % comm.size
        comm.send(np.ones(1), peer, async_op=True)
        comm.recv(np.ones(1), (comm.rank - 1) % comm.size)
        comm.barrier()  # who leaves takes what has not been received along

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        run_peers_at(coordinator.address, 3, body)
        with nothing_left_over():
            for _ in range(3):
                run_peers_at(coordinator.address, 3, body)
        assert coordinator.snapshot()["default"]["members"] == []
    with nothing_left_over():
        collcomm.Coordinator("127.0.0.1:0").close()


def test_newcomers_are_admitted_at_step() -> None:
    sizes: list[int] = []
    joined = threading.Event()

    def newcomer(address: str) -> None:
        with collcomm.join(address, name="new", min_size=2, timeout=20) as comm:
            sizes.append(comm.size)
            assert comm.all_reduce(np.ones(1))[0] == 3
            joined.set()
            comm.barrier()

    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        thread = threading.Thread(target=newcomer, args=(coordinator.address,))

        def body(comm: collcomm.Communicator) -> None:
            assert comm.step().size == 2
            if comm.rank == 0:
                thread.start()
                while not comm.pending:
                    time.sleep(0.01)
            comm.barrier()
            assert comm.size == 2  # not behind our back
            while comm.step().size == 2:
                pass
            assert comm.all_reduce(np.ones(1))[0] == 3
            comm.barrier()

        run_peers_at(coordinator.address, 2, body)
        thread.join(20)
        assert joined.is_set() and sizes == [3]


def test_advertise_names_host_and_port() -> None:
    port = free_port("127.0.0.2")
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        with collcomm.join(coordinator.address, advertise=f"127.0.0.2:{port}", timeout=10) as comm:
            assert (comm.view[0].host, comm.view[0].port) == ("127.0.0.2", port)
            socket.create_connection(("127.0.0.2", port), 5).close()
