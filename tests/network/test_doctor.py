"""`collcomm doctor` on hosts with firewalls, thin paths and address translation."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from collcomm.bench.launch import child_environment
from collcomm.laboratory import Laboratory

from .conftest import PORT, Hosts
from .test_reach import close_ports

LIMIT_SECONDS = 20.0  # for one examination, as the command's own default
CHAIN = "add table ip wall; add chain ip wall in { type filter hook input priority 0; };"


def wall(network: Laboratory, index: int | None, rule: str) -> None:
    """A rule for what comes in at a host; None: at the hub."""
    network.run(index, "nft", f"{CHAIN} add rule ip wall in {rule}")


def doctor(hosts: Hosts) -> tuple[int, dict[str, dict[str, Any]]]:
    """From host 0; exit code, and lines by what they are about."""
    command = [*hosts.network.enter(0), sys.executable, "-m", "collcomm", "doctor", "--json", hosts.coordinator.address]
    began = time.monotonic()
    done = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, timeout=3 * LIMIT_SECONDS, check=False
    )
    assert time.monotonic() - began < LIMIT_SECONDS + 10
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode, {line["what"]: line for line in json.loads(done.stdout)["lines"]}


def test_a_clean_network_has_no_problem(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(1)
    code, lines = doctor(hosts)
    assert code == 0
    assert lines["address"]["local"] == hosts.network.address(0) and lines["translation"]["level"] == "ok"
    assert lines["dialled back"]["outcome"] == "reached"
    assert lines["packets"]["text"].endswith("and the path carries it")


@pytest.mark.parametrize(
    ("verdict", "outcome", "word"),
    [
        ("drop", "silent", "security group"),
        ("reject with tcp reset", "refused", "coordinator running"),
        ("reject with icmp type admin-prohibited", "unreachable", "firewall reject"),
    ],
)
def test_a_filtered_port_is_told_apart(make_hosts: Callable[..., Hosts], verdict: str, outcome: str, word: str) -> None:
    hosts = make_hosts(1)
    wall(hosts.network, None, f"tcp dport {PORT} {verdict}")
    code, lines = doctor(hosts)
    assert code == 1 and lines["port"]["outcome"] == outcome and word in lines["port"]["advice"]


@pytest.mark.parametrize(("verdict", "outcome"), [("drop", "silent"), ("refuse", "refused")])
def test_a_host_that_cannot_be_dialled_is_told_so(make_hosts: Callable[..., Hosts], verdict: str, outcome: str) -> None:
    hosts = make_hosts(1)
    close_ports(hosts, 0, verdict)
    code, lines = doctor(hosts)
    assert code == 0  # it can take part: it dials
    assert lines["dialled back"]["level"] == "warning" and lines["dialled back"]["outcome"] == outcome


def test_a_relay_behind_a_wall_is_a_warning(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(1)
    wall(hosts.network, None, f"tcp dport != {PORT} drop")
    code, lines = doctor(hosts)
    assert code == 0 and lines["relay"]["level"] == "warning" and lines["relay"]["outcome"] == "silent"


@pytest.mark.slow
def test_a_path_that_swallows_large_packets_is_found(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(1)
    wall(hosts.network, None, "ip length > 1420 ip protocol udp drop")
    _, lines = doctor(hosts)
    assert lines["packets"]["level"] == "warning" and lines["packets"]["carried"] == 1420
    wall(hosts.network, None, "ip length > 1420 drop")  # and now TCP's, too: nothing large comes through at all
    code, lines = doctor(hosts)
    assert code == 1 and lines["coordinator"]["level"] == "ok" and lines["rate to it"]["level"] == "problem"
