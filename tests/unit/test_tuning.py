"""What transfers cost: the model finds it again, and a cache that is broken, foreign or not to be written hurts nobody."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collcomm import tuning
from collcomm.cli import main
from collcomm.datatypes.model import Cost, Direction, Method, Model, Sample, fit

SEND, RECEIVE = Direction.SEND, Direction.RECEIVE
GATHER, PACK, DIRECT = Method.GATHER, Method.PACK, Method.DIRECT
MEASURE = tuning.measure


def model_of(gather_run: float, pack_byte: float) -> Model:
    """Where only a run that is gathered, and a byte that is packed, make a difference."""
    costs = {
        DIRECT: Cost(1e-5, 0.0, 1e-10, 1e-10),
        GATHER: Cost(1e-5, gather_run, 1e-10, 1e-10),
        PACK: Cost(1e-5, 0.0, 1e-10 + pack_byte, 1e-10 + pack_byte),
    }
    return Model(dict.fromkeys(Direction, costs))


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_choice_is_the_cheapest_way() -> None:
    model = model_of(gather_run=1e-7, pack_byte=1e-10)  # a run is worth 1000 bytes
    for nbytes in (1 << 14, 1 << 20, 1 << 26):
        for run, expected in ((8, PACK), (900, PACK), (1200, GATHER), (1 << 13, GATHER)):
            assert model.choose(nbytes, nbytes // run) is expected
            least = min((GATHER, PACK), key=lambda way: model.seconds(way, nbytes, nbytes // run))
            assert least is expected
        assert model.choose(nbytes, 1) is DIRECT is model.choose(0, 0)


def test_both_directions_have_their_own_costs() -> None:
    costs = {**model_of(1e-7, 1e-10).costs, RECEIVE: model_of(1e-6, 1e-10).costs[SEND]}
    model = Model(costs)
    assert model.choose(1 << 20, 1 << 6, SEND) is GATHER and model.choose(1 << 20, 1 << 6, RECEIVE) is GATHER
    assert model.choose(1 << 20, 1 << 8, SEND) is GATHER and model.choose(1 << 20, 1 << 8, RECEIVE) is PACK


PART = st.floats(1e-12, 1e-8)


@given(st.floats(1e-7, 1e-4), st.floats(1e-10, 1e-6), PART, PART, st.floats(0, 0.02))
def test_a_fit_finds_what_the_measurements_were_made_of(
    call: float, run: float, near: float, far: float, noise: float
) -> None:
    cost = Cost(call, run, near, far)
    shapes = [(size, size // length) for size in (1 << 14, 1 << 17, 1 << 20) for length in (512, 2048, 8192)]
    samples = [
        Sample(nbytes, runs, cost.seconds(nbytes, runs) * (1 + noise * (-1) ** index))
        for index, (nbytes, runs) in enumerate(shapes)
    ]
    found = fit(samples)
    for nbytes, runs in shapes:
        assert math.isclose(found.seconds(nbytes, runs), cost.seconds(nbytes, runs), rel_tol=0.01 + 3 * noise)


def test_measurements_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="no time"):
        fit([Sample(1 << 14, 2, 0.0)])
    with pytest.raises(ValueError, match="cannot take"):
        fit([Sample(1 << 14, 2, 100.0)])


def test_a_model_comes_out_of_json_as_it_went_in() -> None:
    assert Model.from_json(json.loads(json.dumps(tuning.DEFAULT.to_json()))) == tuning.DEFAULT


def spoilt() -> Iterator[Any]:
    yield from (None, 3, [], {}, "send", {"send": {}, "receive": {}}, {"send": 1, "receive": 2})
    for value in (-1e-9, math.nan, math.inf, 1e-1, "1", None, [1e-9]):
        data = tuning.DEFAULT.to_json()
        data["receive"]["pack"]["run"] = value
        yield data
    for change in ({"more": 1.0}, {"call": 0.0, "run": 0.0, "near": 0.0, "far": 0.0}):
        data = tuning.DEFAULT.to_json()
        data["send"]["gather"].update(change)
        yield data
    data = tuning.DEFAULT.to_json()
    del data["send"]["gather"]["far"]
    yield data


@pytest.mark.parametrize("data", list(spoilt()), ids=lambda data: None)
def test_what_is_no_model_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"model|cannot take|cost"):
        Model.from_json(data)


# -- measured once, and kept -------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As in a new process of a user with an empty cache; its file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_model", None)
    tuning.method.cache_clear()
    yield tuning.cache_file()
    tuning.method.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """What was measured; the real thing has a test of its own."""
    found: list[Model] = []

    def measure() -> Model:
        time.sleep(0.01)
        found.append(model_of(1e-7, 1e-10))
        return found[-1]

    monkeypatch.setattr(tuning, "measure", measure)
    return found


def forget() -> None:
    """As if the process had ended."""
    tuning._model = None
    tuning.method.cache_clear()


def test_this_machine_is_measured_in_well_under_a_second(fresh: Path) -> None:
    began = time.monotonic()
    model = tuning.model()
    assert time.monotonic() - began < 1.0
    assert fresh.exists() and Model.from_json(json.loads(fresh.read_text())["seconds"]) == model
    forget()
    assert tuning.model() == model
    for direction in Direction:  # on any machine
        assert model.choose(1 << 20, 1 << 17, direction) is PACK
        assert 1e-6 < model.seconds(DIRECT, 1 << 20, 1, direction) < 1e-1


def test_what_was_measured_is_measured_once(fresh: Path, measured: list[Model]) -> None:
    threads = [threading.Thread(target=tuning.model) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    forget()
    assert tuning.model() == model_of(1e-7, 1e-10)
    assert len(measured) == 1
    assert [path.name for path in fresh.parent.iterdir()] == [fresh.name]
    tuning.refresh()
    assert len(measured) == 2


def test_plain_cases_ask_for_no_model(fresh: Path, measured: list[Model]) -> None:
    assert tuning.method(1 << 20, 1, SEND) is DIRECT
    assert tuning.method(1 << 20, 1 << 14, SEND) is PACK
    assert tuning.method(1 << 30, tuning.MAX_GATHERED + 1, SEND) is PACK
    assert tuning.method(1 << 20, 2, RECEIVE) is GATHER
    assert not measured and not fresh.exists()
    assert tuning.method(1 << 20, 1 << 8, RECEIVE) is GATHER
    assert len(measured) == 1 and fresh.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\x00",
        b'{"machine": 1}',
        b'{"machine": {}, "seconds": {}}',
        b"9" * 5000,
        b"[" * 100_000,
    ],
    ids=lambda content: content[:8].hex(),
)
def test_a_broken_file_is_measured_anew(fresh: Path, measured: list[Model], content: bytes) -> None:
    fresh.parent.mkdir(parents=True)
    fresh.write_bytes(content)
    tuning.model()
    assert len(measured) == 1
    forget()
    tuning.model()
    assert len(measured) == 1, "it was not put right"


@pytest.mark.parametrize("fact", ["collcomm", "numpy", "processor", "kernel", "cores", "python", "format"])
def test_another_machine_has_another_file(fresh: Path, monkeypatch: pytest.MonkeyPatch, fact: str) -> None:
    here = tuning.facts()
    monkeypatch.setattr(tuning, "facts", lambda: {**here, fact: "another"})
    assert tuning.cache_file() != fresh


def test_a_file_of_another_machine_under_this_name_is_measured_anew(fresh: Path, measured: list[Model]) -> None:
    fresh.parent.mkdir(parents=True)
    stranger = {**tuning.facts(), "cores": 4096}
    fresh.write_text(json.dumps({"machine": stranger, "seconds": tuning.DEFAULT.to_json()}))
    assert tuning.model() != tuning.DEFAULT and len(measured) == 1


def test_a_cache_that_cannot_be_written_costs_one_measurement_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Path, measured: list[Model]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert tuning.model() is tuning.model()
    assert len(measured) == 1
    forget()
    monkeypatch.setattr(tuning, "cache_file", lambda: Path("/proc/collcomm/x.json"))
    assert tuning.model() == measured[0]


def test_a_user_without_a_home_is_served(monkeypatch: pytest.MonkeyPatch, fresh: Path, measured: list[Model]) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setattr(Path, "home", homeless)
    assert tuning.model() == measured[0]


@pytest.mark.parametrize("error", [OSError("no loopback"), TimeoutError("1 s"), ValueError("no time")], ids=repr)
def test_where_nothing_can_be_measured_the_defaults_hold(
    monkeypatch: pytest.MonkeyPatch, fresh: Path, error: Exception
) -> None:
    def measure() -> Model:
        raise error

    monkeypatch.setattr(tuning, "measure", measure)
    assert tuning.model() is tuning.DEFAULT and not fresh.exists()


def test_the_command_measures_anew_and_says_what_it_found(
    fresh: Path, measured: list[Model], capsys: pytest.CaptureFixture[str]
) -> None:
    tuning.model()
    assert main(["tune"]) == 0
    assert len(measured) == 2
    said = capsys.readouterr().out
    assert str(fresh) in said
    assert said.count("gather") >= 2 and "1 MiB: gather to send runs from 1024 B on" in said


def test_the_command_says_where_nothing_can_be_kept_or_measured(
    fresh: Path, measured: list[Model], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "cache_file", lambda: Path("/proc/collcomm/x.json"))
    assert main(["tune"]) == 0 and "not kept" in capsys.readouterr().out
    monkeypatch.setattr(tuning, "MEASURE_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "measure", MEASURE)
    assert main(["tune"]) == 2 and "cannot be measured" in capsys.readouterr().out
    forget()
    assert tuning.model() is tuning.DEFAULT


def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    tuning.measure()
    assert len(os.listdir("/proc/self/fd")) == before
