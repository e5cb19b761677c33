"""Arrays on devices, without a GPU: the engine, windows and staging on a device that takes its time (`LazyDevice`)."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from collcomm.transports.device import BadLetter, DeviceFailed, Letter, OwnDeviceWindow, open_window
from collcomm.transports.window import OwnWindow

import collcomm
from collcomm.engine.operation import Operation, Scratch
from collcomm.engine.request import request
from collcomm.engine.staged import BLOCK_BYTES, Staged
from collcomm.types import Member, View
from tests.support.churn import Churn
from tests.support.lazydevice import LazyArray, LazyDevice, lazy
from tests.support.peers import run_peers

SECONDS = 30.0
Devices = list[LazyDevice]


def stayed(comm: collcomm.Communicator) -> bool:
    """Whether the members have bound windows on their devices."""
    binding = comm._group._on_device
    return binding is not None and binding.shared is not None


@pytest.mark.parametrize("transports", [["cuda_ipc"], None])
def test_arrays_stay_on_devices_that_all_share(lazy_devices: Devices, transports: Any) -> None:
    def body(comm: collcomm.Communicator) -> None:
        result = comm.all_reduce(lazy(np.ones((7, 3), np.float32)), op="avg")
        assert type(result) is LazyArray and result.shape == (7, 3) and (result == 1).all()
        assert stayed(comm)
        assert (comm.all_reduce(np.ones(4)) == 3).all()  # and what lies in host memory goes through that
        assert comm._group._in_host.shared is not None

    run_peers(3, body, transports=transports)


@pytest.mark.parametrize(
    ("transports", "dtype"), [(["shm"], np.float32), (["tcp"], np.int8), (None, ml_dtypes.float8_e4m3fn)]
)
def test_others_go_through_host_memory(lazy_devices: Devices, transports: Any, dtype: Any) -> None:
    """Where not all offer it, and sums of numbers that devices cannot add."""

    def body(comm: collcomm.Communicator) -> None:
        result = comm.all_reduce(lazy(np.ones((7, 3), dtype)))
        assert type(result) is LazyArray and (np.asarray(result).astype(int) == 2).all() and result.dtype == dtype
        assert not stayed(comm)

    run_peers(2, body, transports=transports)


def test_numbers_that_devices_cannot_add_are_gathered_there(lazy_devices: Devices) -> None:
    def body(comm: collcomm.Communicator) -> None:
        result = comm.all_gather(lazy(np.full(5, comm.rank + 1, ml_dtypes.float8_e5m2)))
        assert np.asarray(result).astype(int).tolist() == [1] * 5 + [2] * 5 and stayed(comm)

    run_peers(2, body)


def test_one_alone(lazy_devices: Devices) -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = lazy(np.arange(10.0))
        assert (comm.all_reduce(x) == x).all() and stayed(comm)
        assert comm.all_reduce(x, out=x) is x

    run_peers(1, body)


def test_what_the_caller_has_asked_of_the_device_comes_first(lazy_devices: Devices) -> None:
    """An array is handed over while the work that makes it is still under way."""

    def body(comm: collcomm.Communicator) -> None:
        device = comm._session.device
        for transport_of in ("on the device", "in host memory"):
            dtype = np.float64 if transport_of == "on the device" else ml_dtypes.float8_e5m2
            x, out = lazy(np.zeros(1000, dtype)), lazy(np.zeros(1000, dtype))
            device.caller = made = threading.Event()
            handle = comm.all_reduce(x, out=out, async_op=True)
            assert not handle.done()
            x[:] = 1
            made.set()
            device.caller = None
            assert handle.result(SECONDS) is out and (np.asarray(out).astype(int) == 3).all(), transport_of

    run_peers(3, body)


def test_many_at_once_and_between(lazy_devices: Devices) -> None:
    def body(comm: collcomm.Communicator) -> None:
        arrays = [lazy(np.full(1000 + 200_000 * (turn % 3), turn)) for turn in range(20)]
        handles = [comm.all_reduce(x, out=x, async_op=True) for x in arrays]
        assert comm.all_reduce(np.array([7]))[0] == 14
        for turn, handle in enumerate(handles):
            assert handle.result(SECONDS)[-1] == 2 * turn

    run_peers(2, body)


def test_arrays_with_gaps_and_common_memory(lazy_devices: Devices) -> None:
    def body(comm: collcomm.Communicator) -> None:
        for transport in ("device", "host"):
            dtype = np.float32 if transport == "device" else ml_dtypes.float8_e4m3fn
            whole = lazy(np.ones((6, 10), dtype))
            target = lazy(np.zeros((6, 20), dtype))
            comm.all_reduce(whole, out=target[:, ::2])
            assert (np.asarray(target[:, ::2]).astype(int) == 2).all() and not np.asarray(target[:, 1::2]).any()
            comm.all_reduce(target[:, ::2], out=target[:, ::2])
            assert (np.asarray(target[:, ::2]).astype(int) == 4).all() and not np.asarray(target[:, 1::2]).any()
        row = lazy(np.arange(10.0))
        comm.all_reduce(row[:8], out=row[2:])
        assert row[2:].tolist() == (np.arange(8) * 2.0).tolist()

    run_peers(2, body)


def test_who_mixes_up_places_is_told(lazy_devices: Devices) -> None:
    def body(comm: collcomm.Communicator) -> None:
        here, there = np.ones(4), lazy(np.ones(4))
        with pytest.raises(TypeError, match="both on the device"):
            comm.all_reduce(there, out=here)
        with pytest.raises(TypeError, match="both on the device"):
            comm.all_reduce(here, out=there)
        with pytest.raises(collcomm.CollectiveMismatch, match="in device memory"):
            comm.all_reduce(there if comm.rank else here)
        assert (comm.all_reduce(there) == 2).all()
        with pytest.raises(collcomm.UnsupportedTransport, match="wanted in host memory"):
            comm.sync({"w": there}, revision=1)

    run_peers(2, body)


def test_an_array_on_a_device_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(collcomm.UnsupportedTransport, match=r"x lies in device memory: .*(cupy|GPU)"):
            comm.all_reduce(lazy(np.ones(3)))

    def none() -> None:
        raise collcomm.UnsupportedTransport("cupy is not installed: do so")

    monkeypatch.setattr("collcomm.joining.find_device", none)
    monkeypatch.setattr("collcomm.devicearrays.find_device", none)
    run_peers(1, body)
    with pytest.raises(collcomm.UnsupportedTransport, match=r"cuda_ipc is not available here: cupy.*tcp"):
        run_peers(1, body, transports=["cuda_ipc"])


def test_a_device_that_fails_ends_its_peer_only(lazy_devices: Devices) -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = lazy(np.ones(1000))
        assert (comm.all_reduce(x) == 3).all()
        name = comm.name
        if name == "peer-1":
            comm._session.device.broken = True
            with pytest.raises(DeviceFailed):
                comm.all_reduce(x)
            comm._session.device.broken = False
            assert comm.closed
        else:
            assert (comm.all_reduce(x) == 2).all() and comm.size == 2

    run_peers(3, body)


def test_windows_are_closed_when_their_owners_leave(lazy_devices: Devices) -> None:
    def body(comm: collcomm.Communicator) -> None:
        comm.all_reduce(lazy(np.ones(10)))
        device: Any = comm._session.device
        assert len(device.opened) == 2
        part = comm.split([0, 1])
        if part is not None:
            part.all_reduce(lazy(np.ones(10)))
            assert len(device.opened) == 3
            part.close()
            assert len(device.opened) == 2
        comm.barrier()
        if comm.rank == 2:
            return
        while comm.size == 3:
            comm.all_reduce(lazy(np.ones(10)))
        comm.all_reduce(lazy(np.ones(10)))
        assert len(device.opened) == 1
        comm.barrier()

    before = _maps()
    run_peers(3, body)
    gc.collect()
    assert _maps() == before


def _maps() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:lazy-device")


@pytest.mark.parametrize("transports", ["cuda_ipc", "tcp"])
def test_deaths_while_data_lies_on_devices(transports: str, tmp_path: Path) -> None:
    Churn(seed=3, stop=tmp_path / "stop", on_devices=transports).run(events=10, deadline=90)


# -- parts ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def device() -> Any:
    device = LazyDevice()
    yield device
    device.end()


def test_a_signal_says_that_the_work_is_done(device: LazyDevice) -> None:
    host = OwnWindow(4096)
    own = OwnDeviceWindow(device, host, 1 << 20)
    seen = open_window(device, host, 1 << 20)
    for turn in range(1, 30):
        device.copy(own.data, np.full(1 << 20, turn, np.uint8))
        own.signal()
        assert (seen.data == turn).all()
    seen.close()
    own.close()


@pytest.mark.parametrize("letter", [bytes(4096), Letter(1, 99, b"", b"").pack()], ids=["nothing", "another size"])
def test_rubbish_opens_nothing(device: LazyDevice, letter: bytes) -> None:
    host = OwnWindow(4096)
    host.data[: len(letter)] = np.frombuffer(letter, np.uint8)
    with pytest.raises(BadLetter):
        open_window(device, host, 1 << 20)
    with pytest.raises(BadLetter):
        open_window(device, OwnWindow(64), 1 << 20)
    host.close()


def test_the_memory_of_a_dead_owner_cannot_be_opened(device: LazyDevice) -> None:
    host = OwnWindow(4096)
    text = Letter(2**22 + 1, 1 << 20, b"lazy:0", b"3").pack()
    host.data[: len(text)] = np.frombuffer(text, np.uint8)
    with pytest.raises(collcomm.UnsupportedTransport, match="cannot be opened"):
        open_window(device, host, 1 << 20)
    host.close()


def test_an_aborted_operation_has_its_input_back_at_once(device: LazyDevice) -> None:
    view = View(1, (Member(1, "a", "127.0.0.1", 1),))
    x = np.arange(100_000.0)
    for _ in range(20):
        operation = Operation(request("all_reduce", x.dtype, x.size, op="sum"), view, 1, x, x, np.add, device)
        operation.device = device
        operation.bind({"out": x.nbytes}, Scratch(device))
        assert operation.undo is not None
        operation.undo.save(0, x.nbytes)
        device.copy(operation.buffers["out"], np.zeros(x.nbytes, np.uint8))
        operation.restore()
        np.testing.assert_array_equal(x, np.arange(100_000.0))


@pytest.mark.parametrize("staged", [False, True])
def test_nothing_is_written_after_the_error(device: LazyDevice, staged: bool) -> None:
    """What was asked of the device before an abort is done when the error is raised: the memory may be another's then."""
    view = View(1, (Member(1, "a", "127.0.0.1", 1),))
    x, out = np.ones(100_000), np.zeros(100_000)
    for _ in range(20):
        operation = Operation(request("all_reduce", x.dtype, x.size, op="sum"), view, 1, x, out, np.add, device)
        if staged:
            operation.outgoing = Staged(device, out.view(np.uint8), device.mark())
            operation.outgoing.store(0, out.nbytes)
        else:
            operation.device = device
            operation.bind({"in": x.nbytes, "out": x.nbytes}, Scratch(device))
            device.copy(operation.buffers["out"], operation.buffers["in"])
        operation.restore()
        out[:] = 5
        device.finish()
        assert (out == 5).all()


class Counting(LazyDevice):
    def __init__(self) -> None:
        super().__init__()
        self.copied: list[int] = []

    def copy(self, target: Any, source: Any) -> None:
        self.copied.append(target.nbytes)
        super().copy(target, source)


def test_only_what_is_read_is_fetched_and_one_block_more() -> None:
    device = Counting()
    array = np.random.default_rng(0).integers(0, 255, 4 * BLOCK_BYTES + 100, np.uint8)
    staged = Staged(device, array, device.mark())
    staged.fetch(0, 0)
    assert device.copied == []
    staged.fetch(BLOCK_BYTES + 5, 10)
    assert device.copied == [BLOCK_BYTES] * 2
    np.testing.assert_array_equal(staged.host[BLOCK_BYTES : 2 * BLOCK_BYTES], array[BLOCK_BYTES : 2 * BLOCK_BYTES])
    staged.fetch(2 * BLOCK_BYTES - 1, 2)
    assert device.copied == [BLOCK_BYTES] * 3
    staged.fetch_all()
    np.testing.assert_array_equal(staged.host, array)
    assert device.copied == [BLOCK_BYTES] * 4 + [100] or sorted(device.copied) == [100] + [BLOCK_BYTES] * 4
    device.end()


@pytest.mark.parametrize("order", ["in parts", "at the end", "again"])
def test_results_go_back(order: str) -> None:
    device = Counting()
    array = np.zeros(1000, np.uint8)
    staged = Staged(device, array, device.mark())
    staged.host[:] = 7
    if order != "at the end":
        staged.store(0, 400)
        staged.host[:400] = 7 if order == "in parts" else 9
    if order == "again":
        staged.restart((0,))
    staged.store(400, 600) if order == "in parts" else None
    staged.conclude(1000)
    assert device.copied == {"in parts": [400, 600], "at the end": [1000], "again": [400, 1000]}[order]
    np.testing.assert_array_equal(array, staged.host)
    device.end()


def test_parts_of_a_large_result_are_back_before_the_end(
    lazy_devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []
    store = Staged.store

    def noted(self: Staged, start: int, nbytes: int) -> None:
        stored.append(nbytes)
        store(self, start, nbytes)

    monkeypatch.setattr(Staged, "store", noted)
    size = 3_000_000

    def body(comm: collcomm.Communicator) -> None:
        x = lazy(np.arange(size, dtype=np.float32))
        result = comm.all_reduce(x)
        np.testing.assert_array_equal(np.asarray(result), np.arange(size, dtype=np.float32) * 3)
        comm.barrier()
        before = len(stored)
        assert (
            comm.all_reduce(x, out=x, op="max") is x
        )  # in place, the device keeps the input until all have the result
        assert len(stored) == before
        comm.barrier()

    run_peers(3, body, transports=["tcp"])
    assert sum(stored) == 3 * 4 * size
