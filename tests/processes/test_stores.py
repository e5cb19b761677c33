"""What outlives a coordinator: the journal on a disk, records and the leader's lease in a real etcd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collcomm.errors import CollcommError
from collcomm.membership import Deposed, Journal
from tests.support.etcd import Etcd

TTL_SECONDS = 2.0
TAKEOVER_SECONDS = 6.0  # what a test grants to a takeover that the lease bounds by three; machines are shared

# ---- the journal ------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


@pytest.mark.parametrize("group", ["run-7", "a/../b", "x" * 128, "\u00e9\u4e2d\n", ".", "..", "%2F", "lock"])
def test_a_journal_keeps_what_was_saved_last(tmp_path: Path, journal: Journal, group: str) -> None:
    assert journal.load(group) is None
    journal.save(group, b"one")
    journal.save(group, b"two" * 1000)
    journal.save("another", b"three")
    journal.close()
    again = Journal(tmp_path / "journal")
    assert again.load(group) == b"two" * 1000
    again.save(group, None)
    again.save(group, None)
    assert again.load(group) is None and again.load("another") == b"three"
    assert {path.parent for path in tmp_path.rglob("*")} <= {tmp_path, tmp_path / "journal"}
    journal._lock = os.dup(again._lock)  # the fixture closes it once more
    again.close()


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "foreign"])
def test_a_damaged_record_is_put_aside(tmp_path: Path, journal: Journal, damage: str) -> None:
    journal.save("run", b"record" * 100)
    (path,) = (tmp_path / "journal").glob("*.record")
    data = path.read_bytes()
    flipped = bytes([data[0] ^ 1]) + data[1:]
    path.write_bytes({"torn": data[:-5], "flipped": flipped, "empty": b"", "foreign": b"hello\n" * 9}[damage])
    assert journal.load("run") is None
    assert not path.exists() and path.with_suffix(".damaged").exists()
    journal.save("run", b"anew")
    assert journal.load("run") == b"anew"


def test_two_coordinators_do_not_share_a_journal(tmp_path: Path, journal: Journal) -> None:
    with pytest.raises(CollcommError, match=f"process {os.getpid()}"):
        Journal(tmp_path / "journal")


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        journal = Journal(disk / "journal")
        journal.save("run", b"x" * 1000)
        with pytest.raises(CollcommError, match="cannot be written"):
            journal.save("run", b"y" * 200_000)
        assert journal.load("run") == b"x" * 1000
        assert sorted(path.suffix for path in (disk / "journal").iterdir()) == ["", ".record"]
        journal.close()
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- etcd -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    pytest.importorskip("etcd3gw", reason="pip install 'collcomm[etcd]'")
    with Etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


def until(condition: object, seconds: float) -> float:
    """Wait for it; returns how long it took."""
    assert callable(condition)
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it does not come true"
        time.sleep(0.01)
    return time.monotonic() - began


def test_of_three_one_leads_and_the_next_takes_over_at_once_when_it_closes(etcd: Etcd) -> None:
    from collcomm.membership.etcd import EtcdStore

    stores = [EtcdStore(etcd.url, "three", f"host{number}:1") for number in range(3)]
    for _ in range(3):
        until(lambda: any(store.leads() for store in stores), TAKEOVER_SECONDS)
        (leader,) = [store for store in stores if store.leads()]
        others = [store for store in stores if store is not leader]
        for other in others:
            until(lambda other=other: other.leader == leader.leader, TAKEOVER_SECONDS)
            with pytest.raises(Deposed):
                other.save("run", b"not mine to write")
        leader.save("run", leader.leader.encode())
        for other in others:
            assert other.load("run") == leader.leader.encode()
        leader.close()
        assert not leader.leads()
        stores = others


def test_a_write_without_an_answer_ends_the_term_and_the_next_is_announced(tmp_path: Path) -> None:
    """It may land later; then it must not be ours any more."""
    pytest.importorskip("etcd3gw", reason="pip install 'collcomm[etcd]'")
    from collcomm.membership.etcd import EtcdStore

    with Etcd(tmp_path) as server:
        store = EtcdStore(server.url, "unanswered", "a:1")
        until(store.leads, TAKEOVER_SECONDS)
        first = store._revision
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(Deposed, match="not known"):
            store.save("run", b"late")
        os.kill(server.pid, signal.SIGCONT)
        assert not store.leads()
        until(lambda: store._revision != first, 2 * TAKEOVER_SECONDS)
        with pytest.raises(Deposed, match="new one"):
            store.save("run", b"of the old term")
        assert not store.leads()
        until(store.leads, TAKEOVER_SECONDS)
        store.save("run", b"now")
        assert store.load("run") == b"now"
        store.close()


def test_records_are_kept_and_deleted(etcd: Etcd) -> None:
    from collcomm.membership.etcd import EtcdStore

    store = EtcdStore(etcd.url, "records", "a:1")
    until(store.leads, TAKEOVER_SECONDS)
    assert store.load("x/../y") is None
    store.save("x/../y", bytes(range(256)))
    assert store.load("x/../y") == bytes(range(256))
    with pytest.raises(CollcommError, match="etcd takes"):
        store.save("x/../y", b"x" * (2 << 20))
    store.save("x/../y", None)
    assert store.load("x/../y") is None
    store.close()


_LEADER = """
import sys, time
from collcomm.membership.etcd import EtcdStore
from collcomm.membership import Deposed
store = EtcdStore(sys.argv[1], sys.argv[2], "other:1")
while not store.leads():
    time.sleep(0.01)
print("leads", flush=True)
for line in sys.stdin:
    try:
        print(store.leads(), store.save("run", b"late"), flush=True)
    except Deposed:
        print("deposed", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_who_leads_and_falls_silent_is_replaced_and_fenced_off(etcd: Etcd, number: signal.Signals) -> None:
    from collcomm.membership.etcd import EtcdStore

    command = [sys.executable, "-c", _LEADER, etcd.url, f"silent-{number}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "leads\n"
    store = EtcdStore(etcd.url, f"silent-{number}", "me:1")
    until(lambda: store.leader == "other:1", TAKEOVER_SECONDS)
    process.send_signal(number)
    assert until(store.leads, TAKEOVER_SECONDS) > TTL_SECONDS / 4
    store.save("run", b"mine")
    if number == signal.SIGSTOP:
        process.send_signal(signal.SIGCONT)
        print("write", file=process.stdin, flush=True)
        assert process.stdout.readline() == "deposed\n"
        assert store.load("run") == b"mine"
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    store.close()


def test_without_etcd_nobody_leads_and_with_it_somebody_does_again(tmp_path: Path) -> None:
    pytest.importorskip("etcd3gw", reason="pip install 'collcomm[etcd]'")
    from collcomm.membership.etcd import EtcdStore

    with Etcd(tmp_path) as server:
        stores = [EtcdStore(server.url, "away", f"host{number}:1") for number in range(2)]
        until(lambda: any(store.leads() for store in stores), TAKEOVER_SECONDS)
        server.stop()
        until(lambda: not any(store.leads() for store in stores), TTL_SECONDS + 1)
        with pytest.raises(Deposed, match="does not answer"):
            stores[0].save("run", b"x")
        server.start()
        until(lambda: any(store.leads() for store in stores), 2 * TAKEOVER_SECONDS)
        assert sum(store.leads() for store in stores) == 1
        for store in stores:
            store.close()
