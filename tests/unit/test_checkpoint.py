"""Checkpoints: saved at n, loaded at m, bit-equal; and everything that can be wrong with the files."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import collcomm
from collcomm.snapshots import Checkpoint, CheckpointInvalid, SaveFailed, even_rows, load, save, saving
from collcomm.snapshots.partfile import CODES
from tests.support.peers import run_peers

safetensors = pytest.importorskip("safetensors")

COUNTER = Path("/proc/thread-self/io")


def whole() -> dict[str, np.ndarray]:
    """The arrays that all peers together hold."""
    chance = np.random.default_rng(3)
    return {
        "rows": chance.standard_normal((37, 5), np.float32),
        "columns": chance.standard_normal((4, 29, 3)),
        "half": chance.standard_normal((50, 8), np.float32).astype(ml_dtypes.bfloat16),
        "eighth": chance.standard_normal(41, np.float32).astype(ml_dtypes.float8_e4m3fn),
        "few": np.arange(2, dtype=np.int8),
        "none": np.empty((0, 4), np.uint16),
        "flat": np.empty((6, 0), np.float16),
        "embedding": chance.standard_normal((11, 6), np.float32),
        "loss": np.array(2.5),
        "mask": np.arange(9) % 2 == 0,
    }


REPLICATED = ("embedding", "loss", "mask")
AXES = {"columns": 1}


def block(name: str, array: np.ndarray, size: int, rank: int) -> np.ndarray:
    """What rank ``rank`` of ``size`` holds of ``array``."""
    if name in REPLICATED:
        return array
    axis = AXES.get(name, 0)
    start, stop = even_rows(array.shape[axis], size, rank)
    return array[(slice(None),) * axis + (slice(start, stop),)]


def save_at(n: int, directory: Path, arrays: dict[str, np.ndarray], meta: Any = None) -> None:
    def body(comm: collcomm.Communicator) -> None:
        mine = {name: block(name, array, n, comm.rank) for name, array in arrays.items()}
        replicated = [name for name in REPLICATED if name in arrays]
        axes = {name: axis for name, axis in AXES.items() if name in arrays}
        save(comm, directory, mine, replicated, axes, meta)

    run_peers(n, body)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("n", "m"), [(3, 2), (3, 4), (1, 3), (4, 1), (2, 2)])
def test_saved_at_n_and_loaded_at_m(n: int, m: int, tmp_path: Path) -> None:
    arrays = whole()
    save_at(n, tmp_path / "deep" / "er", arrays, {"step": 12})
    assert Checkpoint(tmp_path / "deep" / "er").meta == {"step": 12}
    for rank in range(m):
        found = load(tmp_path / "deep" / "er", rank, m)
        assert found.keys() == arrays.keys()
        assert all(same(found[name], block(name, array, m, rank)) for name, array in arrays.items())


def test_blocks_of_any_size(tmp_path: Path) -> None:
    def body(comm: collcomm.Communicator) -> None:
        save(comm, tmp_path, {"x": np.full((comm.rank * 3, 2), comm.rank)})

    run_peers(3, body)
    assert load(tmp_path)["x"].tolist() == [[1, 1]] * 3 + [[2, 2]] * 6


def test_others_can_read_the_files(tmp_path: Path) -> None:
    arrays = whole()
    save_at(2, tmp_path, arrays)
    found = {}
    for path in sorted(tmp_path.glob("*.safetensors")):
        with safetensors.safe_open(str(path), "numpy") as part:
            found[path.name[-17:-12]] = part.get_tensor("rows")
            assert part.get_slice("half").get_dtype() == "BF16"
    assert same(np.concatenate([found["00000"], found["00001"]]), arrays["rows"])


def test_what_is_replicated_is_saved_once(tmp_path: Path) -> None:
    def body(comm: collcomm.Communicator) -> None:
        save(comm, tmp_path, {"x": np.arange(100_000.0)}, replicated=["x"])

    run_peers(3, body)
    written = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert 800_000 < sum(written) < 802_000 and max(written) < 268_000
    assert same(load(tmp_path, 1, 2)["x"], np.arange(100_000.0))


@pytest.mark.parametrize("name", CODES)
def test_every_dtype_of_the_format(name: str, tmp_path: Path) -> None:
    dtype = np.dtype(name)
    data = np.frombuffer(np.random.default_rng(2).bytes(240 * dtype.itemsize), np.uint8)
    array = (data & 1 if dtype.kind == "b" else data).view(dtype).reshape(24, 10)[:, ::2]
    save_at(2, tmp_path, {"x": array})
    assert same(load(tmp_path)["x"], array)


def test_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    table = torch.randn(10, 6).to(torch.bfloat16)

    def body(comm: collcomm.Communicator) -> None:
        save(comm, tmp_path, {"x": table[comm.rank * 5 : comm.rank * 5 + 5]})

    run_peers(2, body)
    found = load(tmp_path, tensors=True)["x"]
    assert found.dtype == torch.bfloat16 and torch.equal(found, table)
    out = torch.zeros(4, 6, dtype=torch.bfloat16)
    assert load(tmp_path, 1, 3, out={"x": out[:3]})["x"].shape == (3, 6)
    assert torch.equal(out[:3], table[3:6]) and not out[3].any()


@pytest.mark.parametrize("seed", range(40))
def test_any_slice(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    shape = tuple(chance.randrange(1, 60) for _ in range(chance.randrange(1, 4)))
    if seed % 4 == 0:
        shape = (*shape[-1:], 3, 20_000)  # so that what lies between is not read with it
    axis = chance.randrange(len(shape))
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    n = chance.randrange(1, 4)

    def body(comm: collcomm.Communicator) -> None:
        start, stop = even_rows(shape[axis], n, comm.rank)
        save(comm, tmp_path, {"x": array[(slice(None),) * axis + (slice(start, stop),)]}, axes={"x": axis})

    run_peers(n, body)
    checkpoint = Checkpoint(tmp_path)
    for _ in range(10):
        edges = [sorted(chance.randrange(length + 1) for _ in range(2)) for length in shape]
        ranges = [None if chance.random() < 0.3 else (a, b) for a, b in edges]
        wanted = array[tuple(slice(None) if edge is None else slice(*edge) for edge in ranges)]
        assert same(checkpoint.read("x", ranges), wanted)
        turned = np.zeros(wanted.shape[::-1], np.uint8).T
        assert checkpoint.read("x", ranges, turned) is turned and (turned == wanted).all()


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in COUNTER.read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.skipif(not COUNTER.exists(), reason="the kernel does not count what is read")
def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    table = np.arange(4_000_000, dtype=np.float32).reshape(4000, 1000)
    save_at(2, tmp_path, {"x": table})
    checkpoint = Checkpoint(tmp_path)
    checkpoint.read("x", [(0, 1)])
    began = bytes_read()
    rows = checkpoint.read("x", [(1990, 2010)])
    assert 80_000 <= bytes_read() - began < 150_000, "of 16 MB"
    assert same(rows, table[1990:2010])


def broken(change: Callable[[Path, dict[str, Any]], None], directory: Path) -> None:
    """Change the index of a checkpoint, or its files."""
    path = directory / "checkpoint.json"
    index = json.loads(path.read_text())
    change(directory, index)
    path.write_text(json.dumps(index))


def part(directory: Path, index: dict[str, Any]) -> Path:
    return directory / index["files"][1][0]


def truncate(directory: Path, index: dict[str, Any]) -> None:
    path = part(directory, index)
    os.truncate(path, path.stat().st_size - 8)


def truncate_and_say_so(directory: Path, index: dict[str, Any]) -> None:
    truncate(directory, index)
    index["files"][1][1] -= 8


def rename(name: str) -> Callable[[Path, dict[str, Any]], None]:
    def change(directory: Path, index: dict[str, Any]) -> None:
        shutil.copy(part(directory, index), directory.parent / "elsewhere.safetensors")
        index["files"][1][0] = name

    return change


def link(directory: Path, index: dict[str, Any]) -> None:
    path = part(directory, index)
    path.rename(directory.parent / path.name)
    path.symlink_to(directory.parent / path.name)


def other(*keys: Any, value: Any) -> Callable[[Path, dict[str, Any]], None]:
    def change(_: Path, index: dict[str, Any]) -> None:
        place: Any = index
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


WRONG: dict[str, tuple[Callable[[Path, dict[str, Any]], None], str]] = {
    "missing": (lambda directory, index: part(directory, index).unlink(), "No such file"),
    "truncated": (truncate, "truncated"),
    "truncated, and the index says so": (truncate_and_say_so, "damaged"),
    "a link": (link, "truncated|symbolic"),
    "a file elsewhere": (rename("../elsewhere.safetensors"), "own directory"),
    "an absolute path": (rename("/etc/passwd"), "own directory"),
    "no name": (rename(7), "own directory"),  # type: ignore[arg-type]
    "another dtype": (other("arrays", "x", "dtype", value="float64"), "its index says float64"),
    "no dtype": (other("arrays", "x", "dtype", value="O"), "no dtype"),
    "another shape": (other("arrays", "x", "shape", value=[10, 4]), "of shape"),
    "a shape that is none": (other("arrays", "x", "shape", value=[-10, 3]), "not a number"),
    "another axis": (other("arrays", "x", "axis", value=1), "reach to"),
    "parts with a gap": (other("arrays", "x", "parts", value=[[0, 0, 5], [1, 6, 10]]), "gaps"),
    "parts of no file": (other("arrays", "x", "parts", value=[[0, 0, 5], [2, 5, 10]]), "not a number"),
    "parts too short": (other("arrays", "x", "parts", value=[[0, 0, 5]]), "reach to"),
    "rows that the file lacks": (other("arrays", "x", "parts", value=[[0, 0, 4], [1, 4, 10]]), "of shape"),
    "no arrays": (other("arrays", value=7), "not the index"),
    "another version": (other("version", value=2), "version"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_with_something_wrong_is_refused(what: str, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint"
    save_at(2, directory, {"x": np.arange(30, dtype=np.float32).reshape(10, 3)})
    change, text = WRONG[what]
    broken(change, directory)
    with pytest.raises(CheckpointInvalid, match=text):
        load(directory)


def test_what_is_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="interrupted"):
        load(tmp_path)
    for text in ("", "[]", "{}", "[" * 100_000, '{"version": 1}'):
        (tmp_path / "checkpoint.json").write_text(text)
        with pytest.raises(CheckpointInvalid):
            load(tmp_path)


def test_what_is_not_there_or_does_not_fit(tmp_path: Path) -> None:
    save_at(1, tmp_path, {"x": np.ones((4, 3), np.float32)})
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(CheckpointInvalid, match="'y'"):
        load(tmp_path, names=["y"])
    with pytest.raises(ValueError, match="rows along axis 0"):
        checkpoint.read("x", [(2, 5)])
    with pytest.raises(ValueError, match="2 axes"):
        checkpoint.read("x", [None, None, None])
    with pytest.raises(ValueError, match="out is float64"):
        load(tmp_path, out={"x": np.ones((4, 3))})
    with pytest.raises(ValueError, match="shape"):
        load(tmp_path, out={"x": np.ones((3, 4), np.float32)})
    with pytest.raises(ValueError, match="rank"):
        load(tmp_path, 2, 2)


def test_even_rows_are_even() -> None:
    for length in (0, 1, 7, 100):
        for size in (1, 3, 8):
            edges = [even_rows(length, size, rank) for rank in range(size)]
            assert edges[0][0] == 0 and edges[-1][1] == length
            assert all(one[1] == two[0] for one, two in pairwise(edges))
            assert max(b - a for a, b in edges) - min(b - a for a, b in edges) <= 1


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_save_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    save_at(3, tmp_path, {"x": np.zeros(30)})
    (tmp_path / "part-0123456789abcdef-00000.safetensors").write_text("of a save that was interrupted")
    (tmp_path / "notes.safetensors").write_text("somebody else's")
    save_at(2, tmp_path, {"x": np.ones(30)})
    assert (load(tmp_path)["x"] == 1).all()
    assert len(files(tmp_path)) == 4 and "notes.safetensors" in files(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["fsync", "write"])
def test_a_save_that_fails_at_one_peer_fails_at_all(
    where: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_at(3, tmp_path, {"x": np.zeros(30)})
    before = files(tmp_path)
    original: Callable[..., Any] = getattr(os, where)
    here = threading.local()  # peers are threads

    def fail(*arguments: Any) -> Any:
        if getattr(here, "fails", False):
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    monkeypatch.setattr(os, where, fail)

    def body(comm: collcomm.Communicator) -> tuple[str, str]:
        here.fails = comm.rank == 1
        with pytest.raises(SaveFailed) as caught:
            save(comm, tmp_path, {"x": np.ones(10)})
        here.fails = False
        return comm.name, str(caught.value)

    told = run_peers(3, body)
    assert all(os.strerror(number) in text for _, text in told)
    assert all(told[1][0] in text for rank, (_, text) in enumerate(told) if rank != 1)
    assert files(tmp_path) == before and not load(tmp_path)["x"].any()


def test_an_index_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_at(2, tmp_path, {"x": np.zeros(30)})
    before = files(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving, "write_index", full)

    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(SaveFailed, match="No space"):
            save(comm, tmp_path, {"x": np.ones(10)})

    run_peers(2, body)
    assert files(tmp_path) == before and not load(tmp_path)["x"].any()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        save_at(2, small, {"x": np.zeros(10_000)})
        before = files(small)

        def body(comm: collcomm.Communicator) -> None:
            with pytest.raises(SaveFailed, match="No space left"):
                save(comm, small, {"x": np.ones(5000 if comm.rank else 100_000)})

        run_peers(2, body)
        assert files(small) == before and not load(small)["x"].any()
    finally:
        subprocess.run(["umount", str(small)], timeout=10, check=True)


def test_peers_that_see_different_directories(tmp_path: Path) -> None:
    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(SaveFailed, match="one directory"):
            save(comm, tmp_path / str(comm.rank), {"x": np.ones(10)})

    run_peers(2, body)
    assert files(tmp_path / "0") == files(tmp_path / "1") == set()


@pytest.mark.parametrize(
    ("odd", "options"),
    [
        ({"x": np.ones(3, np.float64)}, {}),
        ({"x": np.ones((3, 2), np.float32)}, {}),
        ({"y": np.ones(3, np.float32)}, {}),
        ({"x": np.ones(3, np.float32)}, {"replicated": ["x"]}),
    ],
    ids=["dtype", "shape", "name", "replicated"],
)
def test_peers_that_save_different_things_are_told(
    odd: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    def body(comm: collcomm.Communicator) -> str:
        usual: tuple[dict[str, Any], dict[str, Any]] = {"x": np.ones(3, np.float32)}, {}
        arrays, settings = (odd, options) if comm.rank == 1 else usual
        with pytest.raises(collcomm.CollectiveMismatch) as caught:
            save(comm, tmp_path, arrays, **settings)
        return str(caught.value)

    assert len(set(run_peers(3, body))) == 1 and not files(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "options", "error"),
    [
        ({"x": np.ones(3, complex)}, {}, TypeError),
        ({"x": "text"}, {}, TypeError),
        ({"x": np.array(1.0)}, {}, ValueError),
        ({"x": np.ones(3)}, {"axes": {"x": 1}}, ValueError),
        ({"x": np.ones(3)}, {"replicated": ["y"]}, ValueError),
        ({"x": np.ones(3)}, {"meta": object()}, TypeError),
    ],
)
def test_what_cannot_be_saved(arrays: dict[str, Any], options: dict[str, Any], error: type, tmp_path: Path) -> None:
    def body(comm: collcomm.Communicator) -> None:
        mine, settings = ({"x": np.ones(3)}, {}) if comm.rank else (arrays, options)
        with pytest.raises(SaveFailed if comm.rank else error):
            save(comm, tmp_path, mine, **settings)

    run_peers(2, body)
    assert not files(tmp_path)
