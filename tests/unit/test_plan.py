"""`collcomm plan`: what it compares and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from collcomm.planner.strategy import parameters
from collcomm.planner.topologyfile import load_topology, parse_topology

from collcomm.cli import main
from collcomm.collectives import BY_MESSAGES
from collcomm.plan import command
from collcomm.plan.candidates import MOST_SEGMENTS, candidates, groups_on, order_on
from collcomm.types import LinkClass

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "topologies"


def _plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "collcomm", "plan", *arguments]
    environment = {**os.environ, "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", "/tmp")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_the_plan_names_the_best_algorithm_and_the_busiest_link(tmp_path: Path) -> None:
    picture = tmp_path / "net.svg"
    done = _plan("--topology", str(EXAMPLES / "two-sites.toml"), "--bytes", "8M", "--draw", str(picture))
    assert done.returncode == 0, done.stdout + done.stderr
    best = next(line for line in done.stdout.splitlines() if line.startswith("best"))
    assert "hierarchical" in best and "1.00x" in best and "west -> east" in best
    assert (
        "ring: w0 > " in done.stdout
        and "doubling" in done.stdout
        and "star" in done.stdout
        and "200 Mbit/s" in done.stdout
    )
    drawn = picture.read_text()
    assert drawn.startswith("<?xml") and "two sites" in drawn


def test_the_plan_tells_what_a_failure_stops(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    text = (EXAMPLES / "flat.toml").read_text()
    file.write_text(text + '\n[[failures]]\nhost = "h3"\nat = "1 ms"\n')
    done = _plan("--topology", str(file), "--bytes", "8M", "--algorithm", "ring")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "host h3 fails at 1.00 ms" in done.stdout and "8 of 8 ranks never finish" in done.stdout


def test_the_plan_says_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[[hosts]]\nname = "a"\nnic = "fast"\n')
    for arguments, said in [
        (["--topology", str(bad)], "bad.toml: hosts entry 1 (a): nic: 'fast' is not a rate"),
        (["--topology", str(tmp_path / "none.toml")], "none.toml"),
        (["--topology", str(tmp_path)], "Is a directory"),
        (["--topology", str(EXAMPLES / "flat.toml"), "--algorithm", "magic"], "no algorithm 'magic'"),
        (["--topology", str(EXAMPLES / "flat.toml"), "--root", "8"], "--root"),
    ]:
        done = _plan(*arguments)
        assert done.returncode == 2 and said in done.stdout, done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["all_reduce", "broadcast", "all_to_all"])
def test_candidates_have_the_parameters_that_members_of_a_planned_group_have(kind: str) -> None:
    topology = load_topology(EXAMPLES / "two-sites.toml")
    order, sites = order_on(topology), (0, 0, 0, 0, 1, 1, 1, 1)
    found = candidates(kind, topology, 1 << 20, order)
    assert groups_on(topology) == sites and order != tuple(range(8))
    assert {candidate.algorithm for candidate in found} == {name for of, name in BY_MESSAGES if of == kind}
    far = LinkClass(topology.latency(0, 4), 25e6)
    for candidate in found:
        assert candidate.parameters == parameters(kind, candidate.algorithm, 1 << 20, 0, order, sites, 0, far)


def test_without_several_sites_hosts_are_the_groups_and_a_simulation_is_not_cut_finely() -> None:
    text = """
    switches = [{name = "s"}]
    hosts = [{prefix = "h", count = 3, attach = "s", nic = "1 Gbit/s", ranks = 2, site = "here"}]
    """
    topology = parse_topology(text)
    assert groups_on(topology) == (0, 0, 1, 1, 2, 2)
    (candidate,) = candidates("all_reduce", topology, 1 << 34, order_on(topology), ["hierarchical"])
    assert candidate.parameters["hosts"] == groups_on(topology)
    assert candidate.parameters["segments"] == MOST_SEGMENTS
    alone = parse_topology(text.replace("ranks = 2, ", ""))
    with pytest.raises(ValueError, match="hierarchical needs sites or hosts with several ranks"):
        candidates("all_reduce", alone, 1 << 20, order_on(alone), ["hierarchical"])
    with pytest.raises(ValueError, match="no algorithm 'magic'"):
        candidates("all_reduce", alone, 1 << 20, order_on(alone), ["magic"])


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def test_jitter_counts_and_its_seed_repeats_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.toml"
    text = (EXAMPLES / "two-sites.toml").read_text()
    file.write_text(text)
    asked = ("--topology", str(file), "--bytes", "1M", "--algorithm", "ring")
    one, same, other = (_run(capsys, *asked, "--seed", seed) for seed in ("1", "1", "2"))
    assert one == same != other
    file.write_text(text.replace('jitter = "2 ms"', ""))
    still = _run(capsys, *asked, "--seed", "1")
    assert still == _run(capsys, *asked, "--seed", "2") != one


def test_what_a_failure_does_to_too_many_steps_is_not_simulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.toml"
    file.write_text((EXAMPLES / "flat.toml").read_text() + '\n[[failures]]\nhost = "h3"\nat = "1 ms"\n')
    monkeypatch.setattr(command, "MOST_NODES", 100)
    said = _run(capsys, "--topology", str(file), "--bytes", "8M", "--algorithm", "ring")
    assert "if host h3 fails at 1.00 ms: not simulated: ring has some" in said and "(at most 100)" in said
