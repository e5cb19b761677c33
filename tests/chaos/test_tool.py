"""`collcomm chaos` end to end: its own workload, and random collectives, each result compared with numpy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collcomm.chaos import Fault, Run, Settings, make_schedule, summarise

CHURN = (sys.executable, "-m", "tests.support.churn")


def _run(place: Path, schedule: list[Fault], seconds: float, **settings: Any) -> dict[str, Any]:
    run = Run(Settings(place, **settings), schedule, seconds)
    run.execute()
    summary = summarise(run)
    assert not summary["failures"], "\n".join(summary["failures"])
    return summary


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_fault_is_borne_and_measured(tmp_path: Path) -> None:
    schedule = [
        Fault(0.5, "kill", 0.3),
        Fault(3.0, "corrupt", 0.4),
        Fault(4.5, "stop", 0.6, seconds=0.4),
        Fault(6.0, "stop", 0.1, seconds=3.0),
        Fault(8.5, "partition", 0.7, seconds=3.0),
        Fault(12.0, "slow", 0.2, seconds=1.5, delay=0.02, rate=5e6),
    ]
    summary = _run(tmp_path, schedule, 14.0, peers=4)
    kinds = summary["kinds"]
    assert {kind: each["count"] for kind, each in kinds.items()} == {
        "kill": 1, "stop": 2, "partition": 1, "slow": 1, "corrupt": 1
    }  # fmt: skip
    assert kinds["kill"]["detection"]["max"] < 1.0
    assert kinds["corrupt"]["detection"]["max"] < 1.0
    assert kinds["partition"]["detection"]["max"] > 0.9, "silence is noticed by its lasting"
    assert all(each["recovery"]["max"] < 8.0 for each in kinds.values())
    assert summary["peers_started"] >= 7, "those that were killed, stopped for long and cut off are replaced"
    assert summary["goodput"] > 5
    assert 0 < summary["longest_pause"] < 8


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_coordinator_may_die(tmp_path: Path) -> None:
    schedule = [
        Fault(0.5, "coordinator", seconds=0.5),
        Fault(4.0, "kill", 0.5),
        Fault(6.0, "coordinator", seconds=0.3),
        Fault(6.1, "kill", 0.2),
    ]
    summary = _run(tmp_path, schedule, 10.0, peers=4)
    assert summary["kinds"]["coordinator"]["count"] == 2
    assert summary["kinds"]["coordinator"]["detection"] is not None
    assert summary["kinds"]["kill"]["recovery"]["max"] < 8.0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_random_collectives_are_right_whatever_happens(tmp_path: Path) -> None:
    schedule = [
        Fault(at, kind, victim, seconds, 0.01 * (kind == "slow"), 1e7 * (kind == "slow"))
        for at, kind, victim, seconds in [
            (0.5, "kill", 0.8, 0.0), (2.5, "corrupt", 0.1, 0.0), (4.0, "kill", 0.4, 0.0), (5.0, "slow", 0.5, 1.0),
            (7.0, "stop", 0.9, 2.5), (8.0, "kill", 0.2, 0.0), (10.0, "partition", 0.5, 2.5), (14.0, "kill", 0.6, 0.0),
        ]
    ]  # fmt: skip
    summary = _run(tmp_path, schedule, 16.0, peers=5, command=CHURN)
    assert summary["operations"] > 100


def test_a_peer_that_fails_without_being_hit_is_told_with_what_it_said(tmp_path: Path) -> None:
    program = "import collcomm; comm = collcomm.join(min_size=2); comm.step(); comm.rank and exit('nobody hit me')"
    done = subprocess.run(
        [sys.executable, "-m", "collcomm", "chaos", "--peers", "2", "--kinds", "kill", "--seconds", "5", "--json",
         str(tmp_path / "figures"), "--", sys.executable, "-c", program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "nobody hit me" in done.stdout
    assert "which was not hit, ended with code 1" in done.stdout
    assert json.loads((tmp_path / "figures").read_text())["failures"]


def test_a_peer_that_hangs_is_noticed(tmp_path: Path) -> None:
    program = "import collcomm, time; comm = collcomm.join(min_size=2); comm.step(); time.sleep(60)"
    run = Run(Settings(tmp_path, (sys.executable, "-c", program), peers=2, stuck=1.0), [], 20.0)
    run.execute()
    assert "has completed nothing for" in run.failures[0]


def test_a_program_that_does_not_join_is_noticed(tmp_path: Path) -> None:
    run = Run(Settings(tmp_path, (sys.executable, "-c", "import time; time.sleep(60)"), peers=1, start=1.0), [], 20.0)
    run.execute()
    assert "peer-0 did not join within 1 s" in run.failures[0]


def test_wrong_arguments_are_explained() -> None:
    for arguments, said in ((["--kinds", "flood"], "there is no fault 'flood'"), (["--peers", "0"], "peers: from 1")):
        done = subprocess.run(
            [sys.executable, "-m", "collcomm", "chaos", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert said in done.stdout


@pytest.mark.campaign
@pytest.mark.timeout(2400)
def test_half_an_hour_of_deaths_and_newcomers(tmp_path: Path) -> None:
    schedule = make_schedule(1, {"kill": 1.0, "spawn": 1.0}, 0.5, 1800.0)
    summary = _run(tmp_path, schedule, 1800.0, peers=6, most=10, pause=None, spare=1, stuck=10.0)
    assert summary["longest_pause"] < 10.0
    for name in ("coordinator", "peer-0"):
        grown = summary["growth"][name]
        assert grown["rss_late"] < 1.05 * grown["rss_early"] + (2 << 20), (name, grown)
        assert grown["descriptors_late"] < grown["descriptors_early"] + 20, (name, grown)
