"""Arrows point downwards: who may import whom, what pure rooms do without, where optional packages may appear."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {"transports": "transports", "planner": "planner"}  # rooms that stand beside the package

BOTTOM = {"errors", "types", "clock", "tensors", "hostviews", "version"}
CORE = {
    "communicator",
    "participant",
    "parts",
    "deviceparts",
    "joining",
    "arrays",
    "devicearrays",
    "invocation",
    "arriving",
    "carriage",
    "blocks",
    "objects",
    "pointtopoint",
    "sharing",
    "launched",
    "safepoint",
    "partings",
    "observing",
    "rendezvous",
    "checking",
    "checkrecords",
    "coded",
    "codedchoice",
    "codedcalls",
    "oneview",
    "inspection",
    "departure",
}
BELOW_CORE = BOTTOM | {"engine", "membership", "collectives", "datatypes", "codecs", "transports", "planner"}
FACE = CORE | BELOW_CORE | {"tuning", "state", "health", "overlap"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "clock": set(),
    "version": set(),
    "tensors": set(),
    "hostviews": {"errors", "tensors"},
    "collectives": set(),
    "datatypes": BOTTOM,
    "codecs": BOTTOM,
    "transports": BOTTOM,
    "planner": BOTTOM | {"collectives"},
    "membership": BOTTOM | {"transports"},  # the drivers parse addresses
    "health": BOTTOM | {"membership"},
    "engine": BOTTOM | {"collectives", "transports", "codecs", "datatypes", "planner", "membership"},
    "state": BELOW_CORE | {"arrays"},
    **dict.fromkeys(CORE, FACE),
    "rendezvous": FACE | {"dashboard"},
    "preemption": {"communicator"},  # where a process ends, not what it does
    "tuning": BELOW_CORE | {"carriage", ""},
    "aio": FACE,
    "torch": FACE,
    "overlap": FACE | {"aio"},
    "diloco": FACE | {"aio", "overlap"},
    "experts": FACE,
    "snapshots": FACE,
    "laboratory": set(),  # its processes start without the rest of the package
    "bench": FACE | {"aio", "", "diloco", "keys", "laboratory", "snapshots"},
    "simulate": FACE,
    "plan": FACE | {"bench"},
    "certificates": BOTTOM,
    "replanning": BELOW_CORE,
    "dashboard": BOTTOM | {"health", "transports"},  # it is given snapshots, and parses an address
    "keys": BOTTOM | {"membership", "certificates", ""},
    "chaos": FACE | {"bench", "laboratory", ""},
    "console": FACE,
    "cli": FACE | {"bench", "chaos", "console", "keys", "plan", "simulate", "tuning", ""},
    "__main__": {"cli"},
    "__init__": FACE | {"aio", "overlap", "diloco", "preemption"},
}

IMPURE = {
    "socket",
    "select",
    "selectors",
    "time",
    "datetime",
    "threading",
    "random",
    "secrets",
    "asyncio",
    "subprocess",
}
IMPURE |= {"multiprocessing", "queue", "signal", "concurrent", "zmq", "os", "logging"}
DRIVERS = {  # modules of pure rooms that touch the world
    "membership": {
        "agent",
        "lines",
        "linewatch",
        "server",
        "booth",
        "probing",
        "planning",
        "store",
        "journal",
        "etcd",
        "credentials",
        "strangers",
        "inquiries",
        "dialling",
        "watching",
    }
    | {"__init__"},
    "collectives": set(),
    "planner": set(),
    "health": {"metrics", "observer", "recorder", "dumpfiles", "signals", "__init__"},
}
PURE_ALLOWED_THIRD_PARTY: dict[str, set[str]] = {
    "collectives": set(),
    "membership": {"msgpack"},
    "planner": {"numpy", "scipy"},
    "health": {"numpy", "msgpack", "xxhash", "ml_dtypes"},
}

BASE = {"numpy", "zmq", "msgpack", "xxhash", "ml_dtypes"}
OPTIONAL = {"torch", "cupy", "mpi4py", "rich", "matplotlib", "psutil", "greenlet", "etcd3gw", "cryptography", "scipy"}
OPTIONAL |= {"prometheus_client", "safetensors"}
MODULE_OF = {
    "etcd3gw": "etcd",
    "cryptography": "certificates",
    "mpi4py": "mpi",
    "cupy": "cuda_ipc",
    "scipy": "milp",
    "prometheus_client": "metrics",
    "safetensors": "partfile",
}  # packages whose module bears a plainer name
MEASURING = {"bench", "chaos", "cli", "console", "plan", "simulate"}  # compares with torch, draws, runs greenlets


def _modules() -> Iterator[tuple[str, str, Path]]:
    """(room, module, file) of every module; a file at the package's top is a room of its own."""
    for path in sorted((ROOT / "collcomm").rglob("*.py")):
        parts = path.relative_to(ROOT / "collcomm").with_suffix("").parts
        yield parts[0], parts[-1], path
    for folder, room in TOP.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield room, path.stem, path


MODULES = list(_modules())
IDS = [str(path.relative_to(ROOT)) for _, _, path in MODULES]


def _package_of(path: Path) -> list[str]:
    relative = path.relative_to(ROOT)
    parts = list(relative.parts[:-1])
    return parts if parts[0] == "collcomm" else ["collcomm", *parts]


def _imported(path: Path) -> set[str]:
    """Full dotted names of what ``path`` imports, relative ones resolved; those under ``if TYPE_CHECKING`` too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else _package_of(path)[: len(_package_of(path)) - node.level + 1]
            stem = ".".join([*base, node.module] if node.module else base)
            found |= {f"{stem}.{alias.name}" for alias in node.names}
    return found


def _rooms_imported(path: Path) -> set[str]:
    rooms = set()
    for name in _imported(path):
        first, _, rest = name.partition(".")
        if first == "collcomm":
            room = rest.split(".")[0]
            known = room in MAY_IMPORT or room in {known for known, _, _ in MODULES}
            rooms.add(room if known else "")  # "" is a name of the package itself
    return rooms


def _outside(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imported(path)} - {"collcomm"}


@pytest.mark.parametrize(("room", "module", "path"), MODULES, ids=IDS)
def test_arrows_point_downwards(room: str, module: str, path: Path) -> None:
    assert room in MAY_IMPORT, f"say in {Path(__file__).name} what the room {room!r} may import"
    upwards = _rooms_imported(path) - MAY_IMPORT[room] - {room}
    assert not upwards, f"{path.relative_to(ROOT)} imports {sorted(upwards)}"


@pytest.mark.parametrize(("room", "module", "path"), MODULES, ids=IDS)
def test_pure_rooms_know_no_clock_socket_thread_or_chance(room: str, module: str, path: Path) -> None:
    if room not in DRIVERS or module in DRIVERS[room]:
        return
    imported = _outside(path)
    assert not imported & IMPURE
    foreign = {name for name in imported if name not in sys.stdlib_module_names}
    assert foreign <= PURE_ALLOWED_THIRD_PARTY[room]


@pytest.mark.parametrize(("room", "module", "path"), MODULES, ids=IDS)
def test_pure_modules_import_no_driver_of_their_room(room: str, module: str, path: Path) -> None:
    if room not in DRIVERS or module in DRIVERS[room]:
        return
    prefix = ".".join(_package_of(path))
    drivers = {f"{prefix}.{driver}" for driver in DRIVERS[room] - {"__init__"}}
    assert not [name for name in _imported(path) if name in drivers or name.rpartition(".")[0] in drivers]


@pytest.mark.parametrize(("room", "module", "path"), MODULES, ids=IDS)
def test_optional_packages_stay_in_the_module_that_bears_their_name(room: str, module: str, path: Path) -> None:
    foreign = {name for name in _outside(path) if name not in sys.stdlib_module_names}
    unknown = foreign - BASE - OPTIONAL
    assert not unknown, f"{sorted(unknown)} is not among the dependencies"
    if room in MEASURING:
        return
    strangers = {name for name in foreign & OPTIONAL if MODULE_OF.get(name, name) not in (module, room)}
    assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"
