"""Measures what transfers cost on this machine, once, and keeps what was found on disk.

The first message whose way is not plain asks for the model. It is read from the cache of the user, or measured in some tens of
milliseconds: over a connection of this process with itself, with the very code that messages use, one end after the other, so
that each end's time is its own. A measurement that was disturbed chooses a slower way, never a wrong one; `collcomm tune` makes
a new one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .carriage import Carriage, Packed, Row, Runs
from .datatypes.model import Direction, Method, Model, Sample, fit
from .datatypes.packing import HostPacking
from .datatypes.strides import packing_of
from .transports.base import LinkBroken
from .transports.stream import SocketStream, TcpStream

FORMAT = 1  # of the file
SURELY_PACKED = 256  # bytes of a run: to name shorter ones to the system takes longer than to copy them, anywhere
SURELY_GATHERED = 1 << 16  # longer ones are the other way round
MAX_GATHERED = 1 << 18  # runs of one message that are written down
SIZES = (
    1 << 14,
    1 << 17,
    1 << 20,
)  # bytes of a measured message: in the smallest cache, in the next one, and in neither
RUN_BYTES = (512, 2048, 8192)
REPETITIONS = 12  # of which the fastest counts: what else runs here only adds
FEWER = 5  # of the largest
MEASURE_SECONDS = 1.0  # no measurement takes longer
ON_THE_WAY = 1 << 17  # bytes that are sent before they are received
BUFFER_BYTES = 4 * ON_THE_WAY

Choose = Callable[[int, int, Direction], Method]  # of bytes, runs

_log = logging.getLogger("collcomm.tuning")
_lock = threading.Lock()
_model: Model | None = None


@lru_cache(maxsize=1024)
def method(nbytes: int, runs: int, direction: Direction) -> Method:
    """How ``nbytes`` in ``runs`` are best sent or received."""
    if runs < 2:
        return Method.DIRECT
    if nbytes < runs * SURELY_PACKED or runs > MAX_GATHERED:
        return Method.PACK
    if nbytes > runs * SURELY_GATHERED:
        return Method.GATHER
    return model().choose(nbytes, runs, direction)


def model() -> Model:
    """Of this machine: kept in memory, else on disk, else measured."""
    global _model
    if _model is None:
        with _lock:
            if _model is None:
                _model = _load() or _measured_and_kept()
    return _model


def refresh() -> tuple[Model, Path | None]:
    """Measure anew; also says where that is kept, None if nowhere. Raises what `measure` raises."""
    global _model
    with _lock:
        _model = measure()
        method.cache_clear()
        return _model, _save(_model)


def _measured_and_kept() -> Model:
    try:
        found = measure()
    except (OSError, ValueError, LinkBroken) as error:
        _log.warning("transfers could not be measured (%s): going by what another machine was like", error)
        return DEFAULT
    _save(found)
    return found


# -- the measurement -------------------------------------------------------------------------------------------------------


def measure() -> Model:
    """Raises OSError, LinkBroken where there is no loopback, TimeoutError, ValueError where times make no sense."""
    deadline = time.monotonic() + MEASURE_SECONDS
    samples: dict[tuple[Direction, Method], list[Sample]] = {}
    near, far = _pair()
    try:
        for size in SIZES:
            rows = _row(size), _row(size)
            ways: list[tuple[Method, int, Callable[[Any], Carriage], Any, Any]] = [(Method.DIRECT, 0, Row, *rows)]
            for length in RUN_BYTES:
                source, target = _spread(size, length), _spread(size, length)
                ways += [
                    (Method.GATHER, size // length, Runs, source, target),
                    (Method.PACK, size // length, Packed, source, target),
                ]
            for way, runs, carriage, source, target in ways:
                count = REPETITIONS if size < SIZES[-1] else FEWER
                turns = [_transfer(near, far, carriage, source, target, size, deadline) for _ in range(count)]
                for direction, took in zip(Direction, zip(*turns, strict=True), strict=True):
                    samples.setdefault((direction, way), []).append(Sample(size, runs, min(took)))
    finally:
        near.close()
        far.close()
    return Model({side: {way: fit(samples[side, way]) for way in Method} for side in Direction})


def _row(size: int) -> Any:
    return np.ones(size, np.uint8)


def _spread(size: int, length: int) -> HostPacking:
    """``size`` bytes in runs of ``length`` with gaps between."""
    return packing_of(np.ones((size // length, length + 64), np.uint8)[:, :length])


def _pair() -> tuple[SocketStream, SocketStream]:
    """Two ends of a connection over loopback, of which one holds what the other sends."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        near = socket.socket()
        try:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            near.settimeout(MEASURE_SECONDS)
            near.connect(server.getsockname())
            server.settimeout(MEASURE_SECONDS)
            far, address = server.accept()
            if address != near.getsockname():
                far.close()
                raise ConnectionError("somebody else came in")
        except BaseException:
            near.close()
            raise
    return TcpStream(near, 0), TcpStream(far, 0)


def _transfer(
    near: SocketStream,
    far: SocketStream,
    carriage: Callable[[Any], Carriage],
    source: Any,
    target: Any,
    size: int,
    deadline: float,
) -> tuple[float, float]:
    """Seconds that sending and receiving took."""
    sent = received = 0
    began = time.perf_counter()
    outgoing = carriage(source)
    middle = time.perf_counter()
    incoming = carriage(target)
    receiving, sending = time.perf_counter() - middle, middle - began
    while received < size:
        began = time.perf_counter()
        allowed = min(size, received + ON_THE_WAY)
        while sent < allowed:
            taken = near.send_several(outgoing.outgoing(sent, allowed - sent))
            sent += taken
            if not taken:
                break  # the buffers are smaller than was asked for
        middle = time.perf_counter()
        while received < sent:
            room = incoming.incoming(received, sent - received)
            count = far.receive(room[0]) if len(room) == 1 else far.receive_several(room)
            if not count:
                break
            incoming.arrived(received, count)
            received += count
        sending += middle - began
        receiving += time.perf_counter() - middle
        if time.monotonic() > deadline:
            raise TimeoutError(f"not done within {MEASURE_SECONDS} s")
    return sending, receiving


# -- the cache -------------------------------------------------------------------------------------------------------------


def facts() -> dict[str, Any]:
    """What the figures depend on."""
    from . import __version__

    return {
        "format": FORMAT,
        "collcomm": __version__,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def cache_file() -> Path:
    """Where the model of this machine is kept. Raises RuntimeError when nobody knows where the user's home is."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    fingerprint = hashlib.sha256(json.dumps(facts(), sort_keys=True).encode()).hexdigest()[:16]
    return folder / "collcomm" / f"transfers-{fingerprint}.json"


def _load() -> Model | None:
    try:
        kept = json.loads(cache_file().read_text())
        return Model.from_json(kept["seconds"]) if kept["machine"] == facts() else None
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        return None  # none, or not what was written: measured again


def _save(found: Model) -> Path | None:
    """In one step, so that nobody reads half a file. Returns where, None if nowhere."""
    try:
        path = cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".new")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({"machine": facts(), "seconds": found.to_json()}, file, indent=1)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        return path
    except (OSError, RuntimeError) as error:
        _log.info("what transfers cost is not kept: %s", error)
        return None


# -- the command -----------------------------------------------------------------------------------------------------------


def run(_options: argparse.Namespace) -> int:
    """`collcomm tune`: measure, keep, and print."""
    began = time.perf_counter()
    try:
        found, path = refresh()
    except (OSError, ValueError, LinkBroken) as error:
        print(f"transfers cannot be measured here: {error}; messages go by defaults")
        return 2
    took = time.perf_counter() - began
    print(
        f"measured in {took * 1e3:.0f} ms; {f'kept in {path}' if path else 'not kept: there is no cache to write to'}"
    )
    print("\n".join(_lines(found)))
    return 0


def _lines(found: Model) -> Sequence[str]:
    lines = ["", "             way    each call  each run  each byte     later"]
    for direction, costs in found.costs.items():
        for way, cost in costs.items():
            cells = f"{cost.call * 1e6:8.1f} us  {cost.run * 1e9:5.0f} ns  {cost.near * 1e9:6.3f} ns  {cost.far * 1e9:6.3f} ns"
            lines.append(f"{direction:>8}  {way:>6}  {cells}")
    for direction in Direction:
        edge = next(
            (1 << n for n in range(3, 21) if found.choose(1 << 20, (1 << 20) >> n, direction) is Method.GATHER), 0
        )
        lines.append(
            f"1 MiB: gather to {direction} runs from {edge} B on" if edge else f"1 MiB: {direction} packed always"
        )
    return lines


# an EPYC of 2024 with Linux 6 and Python 3.11
DEFAULT = Model.from_json(
    {
        "send": {
            "direct": {"call": 6.5e-6, "run": 0.0, "near": 5e-11, "far": 7e-11},
            "gather": {"call": 6.5e-6, "run": 1.5e-7, "near": 7e-11, "far": 9e-11},
            "pack": {"call": 8e-6, "run": 3e-9, "near": 1e-10, "far": 1.4e-10},
        },
        "receive": {
            "direct": {"call": 2e-6, "run": 0.0, "near": 6e-11, "far": 6e-11},
            "gather": {"call": 6.5e-6, "run": 1.4e-7, "near": 4e-11, "far": 6e-11},
            "pack": {"call": 8e-6, "run": 3e-9, "near": 6e-11, "far": 1e-10},
        },
    }
)
