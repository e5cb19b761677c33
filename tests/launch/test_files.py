"""What of the launch files can be looked at where no cluster is: their syntax, and the commands that are in them."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.launching import LAUNCH, ROOT

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_parse(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: apt-get install shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    command = ["shellcheck", "--external-sources", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def manifests() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install pyyaml")
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="needs kubernetes-validate: pip install 'collcomm[launch]'",
)
def test_kubernetes_accepts_the_manifests() -> None:
    import kubernetes_validate

    for manifest in manifests():
        kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_manifests_belong_together() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in manifests()}
    peer = by_kind["Job"]["spec"]["template"]["spec"]
    (container,) = peer["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    name, port = variables["COLLCOMM_COORDINATOR"].split(":")
    service = by_kind["Service"]
    assert service["metadata"]["name"] == name and int(port) in {each["port"] for each in service["spec"]["ports"]}
    assert service["spec"]["selector"] == by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert int(variables["COLLCOMM_MIN_SIZE"]) == by_kind["Job"]["spec"]["completions"]
    grace = float(container["command"][container["command"].index("--grace") + 1])
    assert grace < peer["terminationGracePeriodSeconds"]
    assert "--left-status" in container["command"], (
        "a Job takes status 0 for done, and would start no other in its place"
    )


def test_the_coordinator_s_command_runs(tmp_path: Path) -> None:
    """As it stands in the manifest, but for where it listens and writes."""
    by_kind = {manifest["kind"]: manifest for manifest in manifests()}
    (container,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    (tmp_path / "secret").write_text("x" * 32)
    (tmp_path / "secret").chmod(0o600)
    places = {"0.0.0.0:48148": "127.0.0.1:0", "48149": "0", "/etc/collcomm/secret": str(tmp_path / "secret")}
    places["/var/lib/collcomm"] = str(tmp_path)
    command = [sys.executable, "-m", *(places.get(word, word) for word in container["command"])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            deadline = time.monotonic() + 30
            said = process.stdout.readline()
            assert "coordinator" in said and time.monotonic() < deadline, said
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
