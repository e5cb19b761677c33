"""Keys: what follows from a secret, what `collcomm keys` makes, and what is refused of either."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmq.utils import z85

import collcomm
from collcomm.errors import AuthenticationFailed, CollcommError
from collcomm.keys import make_keys
from collcomm.membership.credentials import coordinator_credentials, parse_key, peer_credentials, read_secret
from collcomm.membership.strangers import check_exposure


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLLCOMM_SECRET", "COLLCOMM_KEYS"):
        monkeypatch.delenv(name, raising=False)


def test_all_keys_follow_from_the_secret() -> None:
    first, again, other = peer_credentials("one"), peer_credentials("one"), peer_credentials("two")
    coordinator = coordinator_credentials("one")
    assert first is not None and other is not None and coordinator is not None
    assert first == again
    assert len({first.secret, other.secret, first.coordinator, other.coordinator, first.public, other.public}) == 6
    assert zmq.curve_public(coordinator.secret) == first.coordinator
    assert coordinator.allowed() == {z85.decode(first.public)}
    assert first.secret.decode() not in repr(first) and coordinator.secret.decode() not in repr(coordinator)


def test_nothing_given_is_nothing() -> None:
    assert peer_credentials() is None and coordinator_credentials() is None


def test_the_environment_speaks_when_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLLCOMM_SECRET", "one")
    assert peer_credentials() == peer_credentials("one") != peer_credentials("two")
    (folder,) = make_keys(tmp_path / "keys", ["peer"], tls=False)
    assert peer_credentials(keys=folder) != peer_credentials()
    monkeypatch.setenv("COLLCOMM_KEYS", str(folder))
    with pytest.raises(ValueError, match="not both"):
        peer_credentials()


@pytest.mark.parametrize("secret", ["", 7, b"bytes", "x" * 5000])
def test_a_secret_is_a_string(secret: object) -> None:
    with pytest.raises(ValueError, match="secret must be"):
        peer_credentials(secret)  # type: ignore[arg-type]


def test_the_directory_serves_coordinator_and_peers(tmp_path: Path) -> None:
    folders = make_keys(tmp_path / "keys", ["ann", "bob"])
    coordinator = coordinator_credentials(keys=tmp_path / "keys")
    assert coordinator is not None
    assert coordinator_credentials(keys=tmp_path / "keys/coordinator") is not None
    peers = [peer_credentials(keys=folder) for folder in folders]
    assert coordinator.allowed() == {z85.decode(peer.public) for peer in peers if peer is not None}
    for folder, peer in zip(folders, peers, strict=True):
        assert peer is not None and peer.certificates == folder
        assert peer.coordinator == zmq.curve_public(coordinator.secret)
    with pytest.raises(AuthenticationFailed, match="ann, bob"):
        peer_credentials(keys=tmp_path / "keys")


def test_one_peer_is_found_by_itself(tmp_path: Path) -> None:
    (folder,) = make_keys(tmp_path / "keys", ["peer"], tls=False)
    found = peer_credentials(keys=tmp_path / "keys")
    assert found == peer_credentials(keys=folder) and found is not None and found.certificates is None


def test_nobody_else_may_read_and_nothing_is_overwritten(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["peer"])
    files = {path: path.read_bytes() for path in (tmp_path / "keys").rglob("*") if path.is_file()}
    assert len(files) == 9
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(CollcommError, match="never overwritten"):
        make_keys(tmp_path / "keys", ["new", "peer"])
    assert not (tmp_path / "keys/new").exists()
    make_keys(tmp_path / "keys", ["new"])
    assert all(path.read_bytes() == data for path, data in files.items())


@pytest.mark.parametrize("name", ["coordinator", "", "../x", "a/b", ".", "x" * 65])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(CollcommError, match="cannot be a peer's name"):
        make_keys(tmp_path / "keys", [name])


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CollcommError, match="cannot make the directory"):
        make_keys(tmp_path / "file" / "keys", ["peer"])
    for call in (peer_credentials, coordinator_credentials):
        with pytest.raises(AuthenticationFailed, match="collcomm keys"):
            call(keys=tmp_path / "missing")


@pytest.mark.parametrize("name", ["curve.key", "coordinator.pub"])
@pytest.mark.parametrize("data", [b"", b"short", b"x" * 41, b"\xff" * 40, b'"' * 40, b"x" * 100_000])
def test_a_spoilt_file_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (folder,) = make_keys(tmp_path / "keys", ["peer"], tls=False)
    (folder / name).write_bytes(data)
    with pytest.raises(AuthenticationFailed, match=name):
        peer_credentials(keys=folder)


@given(
    st.binary(max_size=80)
    | st.text("0123456789abcXYZ.-:+=^!/*?&<>()[]{}@%$#", min_size=40, max_size=40).map(str.encode)
)
def test_no_bytes_break_the_parser_of_keys(data: bytes) -> None:
    try:
        key = parse_key(data, "here")
    except AuthenticationFailed:
        return
    assert len(z85.decode(key)) == 32


@given(st.binary(max_size=6000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_no_bytes_break_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    try:
        assert isinstance(read_secret(path), str)
    except AuthenticationFailed:
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_protection(host: str) -> None:
    check_exposure(host, protected=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "fe80::1", "somewhere", "127.evil.example", "*"])
def test_elsewhere_it_needs_some_or_a_word(host: str) -> None:
    with pytest.raises(CollcommError) as caught:
        check_exposure(host, protected=False, insecure=False)
    assert all(remedy in str(caught.value) for remedy in ("secret=", "keys=", "insecure=True", "--insecure"))
    check_exposure(host, protected=True, insecure=False)
    check_exposure(host, protected=False, insecure=True)


def test_an_open_coordinator_is_not_made_by_accident() -> None:
    with pytest.raises(CollcommError, match="insecure=True"):
        collcomm.Coordinator("0.0.0.0:0")
    with collcomm.Coordinator("0.0.0.0:0", insecure=True) as coordinator:
        assert coordinator.protection == "nothing"
    with collcomm.Coordinator("0.0.0.0:0", secret="one") as coordinator:
        assert coordinator.protection == "the shared secret"


def test_the_command_makes_keys(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "collcomm", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = run("keys", str(tmp_path / "keys"), "ann", "bob", "--no-tls")
    assert done.returncode == 0 and "keys/ann" in done.stdout and "coordinator --keys" in done.stdout
    again = run("keys", str(tmp_path / "keys"), "ann")
    assert again.returncode == 2 and "never overwritten" in again.stdout
    exposed = run("coordinator", "--bind", "0.0.0.0:0")
    assert exposed.returncode == 2 and "--secret-file" in exposed.stdout
