"""What holds for all tests: they leave no process, thread, namespace or shared memory behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from collcomm.laboratory import PREFIX
from tests.support import peers
from tests.support.lazydevice import LazyDevice
from tests.support.ondevice import OnDevice

SETTLE_SECONDS = 5.0  # what was told to end may need so long to be gone
POLL_SECONDS = 0.02
FOREIGN_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python's own, one a run


def _children() -> set[str]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
            if child.status() != psutil.STATUS_ZOMBIE and not any(helper in command for helper in FOREIGN_HELPERS):
                found.add(f"process {child.pid}: {command[:200]}")
        except psutil.NoSuchProcess:
            pass
    return found


def _threads() -> set[str]:
    return {f"thread {thread.name}" for thread in threading.enumerate() if thread.name.startswith("collcomm")}


def _namespaces() -> set[str]:
    """Those that this process made: others may run tests on the same machine."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return set()
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    names = {line.split()[0] for line in listed.splitlines() if line}
    return {f"namespace {name}" for name in names if name.startswith(f"{PREFIX}{os.getpid()}n")}


def _shared_memory() -> set[str]:
    return {str(path) for path in Path("/dev/shm").glob("collcomm*")}


def _everything() -> set[str]:
    return _children() | _threads() | _namespaces() | _shared_memory()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is measured while tests run stays theirs, also in processes that they start."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers of this test use TCP, although they share a host."""
    monkeypatch.setenv("COLLCOMM_TRANSPORTS", "tcp")


@pytest.fixture
def lazy_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LazyDevice]]:
    """Peers of this test have a device each, as they join; windows are small, so that data goes through them in blocks."""
    devices: list[LazyDevice] = []
    here = threading.local()  # peers are threads

    def find() -> LazyDevice:
        if not hasattr(here, "device"):
            here.device = LazyDevice(len(devices))
            devices.append(here.device)
        device: LazyDevice = here.device
        return device

    monkeypatch.setattr("collcomm.joining.find_device", find)
    monkeypatch.setattr("collcomm.devicearrays.find_device", find)
    monkeypatch.setattr("collcomm.engine.group.DEVICE_SLOT_BYTES", 1 << 20)
    monkeypatch.setattr("collcomm.engine.binding.DEVICE_WINDOW_BYTES", 2 << 20)
    yield devices
    for device in devices:
        device.end()
        assert not device.opened


@pytest.fixture(params=["shm", "tcp"])
def each_transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs once per transport."""
    monkeypatch.setenv("COLLCOMM_TRANSPORTS", request.param)
    name: str = request.param
    return name


@pytest.fixture(params=["cuda_ipc", "tcp"], ids=["there", "through host memory"])
def each_way_of_devices(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, lazy_devices: list[LazyDevice]
) -> None:
    """All arrays that bodies of `run_peers` hand over lie on devices; they stay there, or do not."""
    monkeypatch.setenv("COLLCOMM_TRANSPORTS", request.param)
    monkeypatch.setattr(peers, "dress", OnDevice)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Checked after each module, when its own fixtures have ended."""
    before = _everything()
    yield
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := _everything() - before) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    assert not left, "left behind: " + "; ".join(sorted(left))
