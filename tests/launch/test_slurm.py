"""The batch script under a Slurm of one node, started for the test: preempted, queued again, and it goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from collcomm.bench.launch import die_with_parent, free_port
from tests.support.launching import LAUNCH, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        os.geteuid() != 0
        or not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("slurmctld", "slurmd")),
        reason="needs root and Slurm: apt-get install slurmctld slurmd slurm-client",
    ),
]
START_SECONDS = 40.0
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""


class Cluster:
    """``place``: where the job writes."""

    def __init__(self, place: Path):
        self.place = place
        host = os.uname().nodename.split(".")[0]
        settings = {"host": host, "place": place, "controller": free_port(), "daemon": free_port()}
        for name in ("state", "spool"):
            (place / name).mkdir()
        (place / "slurm.conf").write_text(CONFIGURATION.format(**settings))
        (place / "cgroup.conf").write_text("CgroupAutomount=no\n")
        paths = f"{os.environ['PATH']}:/usr/sbin"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("COLLCOMM", "SLURM"))}
        own = {
            "SLURM_CONF": str(place / "slurm.conf"),
            "PATH": paths,
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
        }
        self.environment = {**clean, **own, "LAUNCH": str(LAUNCH), "COLLCOMM_PORT": str(free_port())}
        daemons = [["slurmctld", "-D", "-i"], ["slurmd", "-D", "-N", host]]
        self._daemons = [
            subprocess.Popen(
                command,
                env=self.environment,
                preexec_fn=die_with_parent,
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            for command in daemons
        ]

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.place, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout + done.stderr

    def until(self, what: str, *command: str, seconds: float = START_SECONDS) -> str:
        deadline = time.monotonic() + seconds
        while what not in (said := self.run(*command)):
            assert time.monotonic() < deadline, f"{command}: {said}\n{self.output()}"
            time.sleep(0.3)
        return said

    def output(self) -> str:
        return "".join(path.read_text() for path in self.place.glob("collcomm-*.out"))

    def close(self) -> None:
        family = [child for daemon in self._daemons for child in psutil.Process(daemon.pid).children(recursive=True)]
        steps = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "slurmstepd"]
        family += [child for step in steps for child in [*step.children(recursive=True), step]]
        for process in [*family, *self._daemons]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for daemon in self._daemons:
            daemon.wait(10)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.until("idle", "sinfo", "--noheader", "--format=%T")
        yield made
    finally:
        made.close()


def test_a_preempted_job_is_queued_again_and_goes_on_from_there(cluster: Cluster) -> None:
    options = ["--nodes=1", "--ntasks-per-node=3", "--time=10"]
    train = ["--rounds", "60", "--inner-steps", "3", "--least-seconds", "0.2"]
    said = cluster.run("sbatch", "--parsable", *options, str(LAUNCH / "slurm.sbatch"), *train)
    job = said.strip()
    assert job.isdecimal(), said
    cluster.until("round 5 with 3 peers", "cat", f"collcomm-{job}.out")
    cluster.run("scancel", "--batch", "--signal=TERM", job)
    cluster.until("the job is queued again", "cat", f"collcomm-{job}.out")
    left = results(cluster)
    assert [one["end"] for one in left] == ["left"] * 3 and all(one["retries"] == 0 for one in left)
    deadline = time.monotonic() + 150.0
    while '"end": "finished"' not in cluster.output():
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm lets it wait for some minutes else
        assert time.monotonic() < deadline, cluster.output()
        time.sleep(0.5)
    cluster.until("COMPLETED", "scontrol", "show", "job", job)
    finished = results(cluster)[3:]
    assert [one["end"] for one in finished] == ["finished"] * 3 and len({one["digest"] for one in finished}) == 1
    assert all(one["began"] == left[0]["rounds"] and one["rounds"] == 60 for one in finished), "from the checkpoint"


def results(cluster: Cluster) -> list[dict[str, object]]:
    lines = [line[line.index('{"peer"') :] for line in cluster.output().splitlines() if '{"peer"' in line]
    return [json.loads(line) for line in lines]
