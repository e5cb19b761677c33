"""Ranks under mpirun: every collective, disagreement, leaving; and deaths at many instants where the job survives them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import collcomm
from collcomm.bench.mpilaunch import PREFIX, SEGMENTS, clear_up, run_ranks, why_not
from collcomm.bench.mpireference import MpiReference
from tests.support.contract import ALONE, CONTRACT

PROGRAM = ("-m", "tests.support.mpirank")
RUN_SECONDS = 40.0
Events = list[dict[str, Any]]

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(autouse=True)
def no_file_is_left_behind() -> Iterator[None]:
    """Segments and session directories of the ranks; those of this process, others may run tests, too."""
    yield
    assert not list(SEGMENTS.glob(f"{PREFIX}{os.getpid()}-*"))


def test_what_a_killed_launcher_has_left_is_cleared_up_by_the_next(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    names = [f"{PREFIX}{killed.pid}-a", f"{PREFIX}{os.getpid()}-b", f"{PREFIX}odd", "another's"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "segment").touch()
    clear_up(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def _run(n: int, case: dict[str, Any], ulfm: bool = False, excused: bool = False) -> Events:
    """Events of ``n`` ranks; fails with what a rank has raised."""
    events = run_ranks(n, case, RUN_SECONDS, ulfm, PROGRAM, excused=True)
    errors = [f"rank {e['rank']}, {e['case']}: {e['text']}" for e in events if e["event"] == "error"]
    assert not errors, "\n".join(errors)  # of all: one rank's end is the next one's trouble
    assert excused or events[-1]["code"] == 0, events[-1]
    return events


def _done(events: Events, case: str) -> list[int]:
    return sorted(event["rank"] for event in events if event["event"] == "done" and event["case"] == case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "ulfm", "on_devices"),
    [(2, False, False), (4, False, False), (3, True, False), (3, False, True)],
    ids=["2", "4", "3-ulfm", "3-on-devices"],
)
def test_everything_that_a_communicator_does(n: int, ulfm: bool, on_devices: bool) -> None:
    events = _run(n, {"cases": list(CONTRACT), "on_devices": on_devices}, ulfm)
    for case in CONTRACT:
        assert _done(events, case) == list(range(n)), case


@pytest.mark.parametrize("ulfm", [False, True], ids=["plain", "ulfm"])
def test_codecs(ulfm: bool) -> None:
    assert _done(_run(3, {"cases": ["coded"]}, ulfm), "coded") == [0, 1, 2]


def test_fused_and_rings() -> None:
    assert _done(_run(3, {"cases": ["overlapping"]}, ulfm=True), "overlapping") == [0, 1, 2]


def test_one_rank_alone() -> None:
    events = _run(1, {"cases": list(ALONE)})
    assert all(_done(events, case) == [0] for case in ALONE)


@pytest.mark.parametrize("ulfm", [False, True], ids=["plain", "ulfm"])
def test_the_others_go_on_when_one_leaves(ulfm: bool) -> None:
    assert _done(_run(3, {"cases": ["leaving"]}, ulfm), "leaving") == [0, 1, 2]


def test_what_was_sent_before_leaving_arrives() -> None:
    assert _done(_run(2, {"cases": ["parting_words"]}), "parting_words") == [0, 1]


def test_nothing_follows_a_message_that_was_cut_short() -> None:
    assert _done(_run(2, {"cases": ["cut_short"]}), "cut_short") == [0, 1]


def test_a_late_peer_is_named_and_the_group_goes_on() -> None:
    assert _done(_run(3, {"cases": ["expiring"]}, ulfm=True), "expiring") == [0, 1, 2]


def test_who_waits_elsewhere_helps_to_settle_a_failure() -> None:
    assert _done(_run(3, {"cases": ["interrupted"]}, ulfm=True), "interrupted") == [0, 1, 2]


def test_without_ulfm_a_late_peer_ends_the_communicator() -> None:
    events = _run(2, {"cases": ["expiring_for_good"]}, excused=True)
    assert _done(events, "expiring_for_good") == [0]


def _deaths() -> list[Any]:
    """Instants from before the first operation to well into them, one or two victims, both answers to a loss."""
    chance = random.Random(4)
    found = []
    for number in range(8):
        n = (2, 3, 4)[number % 3]
        victims = chance.sample(range(n), 2 if n == 4 and number % 2 else 1)
        case = {"seed": number, "victims": victims, "after": chance.uniform(0, 0.3)}
        case["on_failure"] = ("retry", "raise")[number // 3 % 2]
        found.append(pytest.param(n, case, id=f"{case['on_failure']}-{n}-{number}"))
    return found


@pytest.mark.parametrize(("n", "case"), _deaths())
def test_deaths(n: int, case: dict[str, Any]) -> None:
    events = _run(n, case, ulfm=True, excused=True)
    logs = [event for event in events if event["event"] == "log"]
    assert len(logs) == n - len(case["victims"]), events[-1]
    shortest = min(len(event["log"]) for event in logs)
    assert all(event["log"][:shortest] == logs[0]["log"][:shortest] for event in logs), "survivors disagree"
    lost = [said for event in logs for _, said in event["log"] if isinstance(said, str)]
    if case["on_failure"] == "retry":
        assert set(lost) <= {"lost broadcast"}, "only a root's death is an error"


@pytest.mark.campaign  # the deadlock that it found has a test of its own, above
@pytest.mark.parametrize("victim", [1, 3])
def test_a_death_is_settled_by_each_communicator(victim: int) -> None:
    case = {"seed": 0, "everywhere": True, "victims": [victim], "after": 0.15 + 0.013 * victim}
    logs = [event["log"] for event in _run(4, case, ulfm=True, excused=True) if event["event"] == "log"]
    assert len(logs) == 3 and logs[0] == logs[1] == logs[2]


def test_without_ulfm_a_death_ends_the_job() -> None:
    case = {"seed": 1, "victims": [1], "after": 0.2}
    events = run_ranks(2, case, RUN_SECONDS, False, PROGRAM, excused=True)
    assert events[-1]["code"] != 0 and "signal 9" in events[-1]["said"]


def test_the_reference_of_the_bench_leaves_no_segment() -> None:
    def segments() -> set[Path]:
        return set(SEGMENTS.glob("sm_segment*"))

    before = segments()
    reference = MpiReference(2)
    try:
        for out_of_place in (False, True):
            assert len(reference.block(1 << 16, out_of_place, 0.01)) >= 2
    finally:
        began = time.monotonic()
        reference.close()
    assert time.monotonic() - began < 5, "the ranks did not end by themselves"
    assert segments() <= before


# -- joining -----------------------------------------------------------------------------------------------------------


def test_an_address_and_mpi_do_not_go_together() -> None:
    with pytest.raises(collcomm.UnsupportedTransport, match="nobody can join it at"):
        collcomm.join("127.0.0.1:1", transports=["mpi"])


def test_a_rank_that_does_not_join_is_not_waited_for() -> None:
    assert _done(_run(2, {"cases": ["absent"]}, excused=True), "absent") == [0]


def test_without_a_launcher_there_is_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLLCOMM_COORDINATOR", raising=False)
    with pytest.raises(collcomm.UnsupportedTransport, match="no MPI launcher"):
        collcomm.join(transports=["mpi"])
    with pytest.raises(ValueError, match="where is the coordinator"):
        collcomm.join()


def _in_a_process(source: str, **variables: str) -> str:
    root = str(Path(collcomm.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **variables}
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def test_a_missing_package_is_named() -> None:
    source = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "import collcomm\n"
        "try: collcomm.join()\n"
        "except collcomm.UnsupportedTransport as error: print(error)"
    )
    assert "pip install 'collcomm[mpi]'" in _in_a_process(source, OMPI_COMM_WORLD_RANK="0")


def test_mpi_is_not_started_unasked() -> None:
    """Importing, and joining a coordinator's group under a launcher, leave MPI alone."""
    source = (
        "import sys, collcomm\n"
        "with collcomm.Coordinator('127.0.0.1:0') as coordinator:\n"
        "    collcomm.join(coordinator.address).leave()\n"
        "print([name for name in sys.modules if name.startswith('mpi4py')])"
    )
    assert _in_a_process(source, OMPI_COMM_WORLD_RANK="0").strip() == "[]"
