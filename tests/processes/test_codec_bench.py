"""`collcomm bench codecs` and `coded`: figures of every codec, and that what is timed is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collcomm.bench.cases import bench_failure
from collcomm.bench.codecs import bench_codecs, bench_coded
from collcomm.cli import main
from collcomm.codecs import codec_of, names


def test_every_codec_has_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "figures.json"
    assert main(["bench", "codecs", "--sizes", "64K", "--rounds", "1", "--json", str(written)]) == 0
    said = capsys.readouterr().out
    rows = json.loads(written.read_text())["rows"]
    assert [row["codec"] for row in rows] == [codec_of(name).spec for name in names()]
    for row in rows:
        assert row["codec"] in said
        assert row["both rate"] < min(row["encode rate"], row["decode rate"])
        assert row["bits"] == 8 * codec_of(row["codec"].partition("(")[0]).encoded_bytes(1 << 14) / (1 << 14)


def test_int8_keeps_pace() -> None:
    """A tenth of what a core does at its best: whoever makes it slower by that much hears of it."""
    rates = {row["codec"]: row["both rate"] for row in bench_codecs(4 << 20, rounds=3)}
    assert rates[codec_of("int8").spec] > 0.25e9


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_coded_against_plain(transport: str) -> None:
    rows = bench_coded(2, [1 << 20], ["int8", "e3m0"], transport, rounds=2)
    assert [row["codec"] for row in rows] == ["int8(block=1024)", "e3m0(block=256)"]
    for row, ratio in zip(rows, (3.9, 7.5), strict=True):
        assert row["speed-up"] == row["float32"]["median"] / row["coded"]["median"] > 0
        if transport == "tcp":
            assert row["payload"] <= row["sent"] <= 1.01 * row["payload"] + 4096
            assert row["sent plain"] / row["sent"] > ratio


def test_unknown_codecs_are_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "coded", "--codec", "int9"]) != 0
    assert "'int9' is not known here" in capsys.readouterr().out


def test_processes_that_are_killed_leave_the_others_with_the_right_sum() -> None:
    """SIGKILL at some instant of a coded all_reduce; survivors check what they hold."""
    (row,) = bench_failure(3, [4 << 20], runs=3, codec="int8")
    assert row["held"]["count"] == 6 and row["held"]["max"] < 10
