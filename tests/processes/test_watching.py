"""Whoever watches a coordinator: what it is shown, who is let in, and how little a watcher may cost."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import zmq

from collcomm.errors import AuthenticationFailed, CollcommError, CoordinatorUnavailable
from collcomm.health import snapshot as schema
from collcomm.membership import Coordinator, Watch, inquiries, showing
from collcomm.membership.messages import VERSION, decode, encode
from collcomm.membership.server import CONTROL_PREFIX
from collcomm.membership.store import MemoryStore
from tests.processes.test_coordinator import WAIT_SECONDS, agents, group_of, soon
from tests.support.attendants import Telling


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    with Coordinator("127.0.0.1:0") as coordinator:
        yield coordinator


@pytest.fixture
def watch(coordinator: Coordinator) -> Iterator[Watch]:
    with Watch(coordinator.address) as watch:
        yield watch


def events(shown: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    return [(event["name"], event["text"]) for event in shown["events"] if event["kind"] == kind]


def test_the_only_group_is_shown_and_its_exits_have_causes(
    coordinator: Coordinator, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiries, "FRESH_SECONDS", 0.0)
    assert watch.look() == []
    with group_of(coordinator.address, "abc") as (a, b, c):
        shown = watch.snapshot()
        assert (shown["version"], shown["group"], shown["epoch"]) == (schema.VERSION, "run", 1)
        assert [member["rank"] for member in shown["members"]] == [0, 1, 2]
        assert {member["name"] for member in shown["members"]} == {"a", "b", "c"}
        assert all(0 <= member["heard"] < 5 and member["joined"] <= shown["at"] for member in shown["members"])
        b.order("leave")
        b.wait("left")
        c.signal(signal.SIGSTOP)
        try:
            a.wait("view", names=["a"])
        finally:
            c.signal(signal.SIGCONT)
        shown = watch.snapshot()
        assert events(shown, "left") == [("b", "left")]
        ((name, cause),) = events(shown, "died")
        assert name == "c" and cause.startswith("silent for 1.")
        assert {"kind": "died", "cause": "silent", "count": 1} in shown["totals"]
        assert [event["at"] for event in shown["events"]] == sorted(event["at"] for event in shown["events"])
        assert coordinator.groups == ["run"]
        assert len(coordinator.snapshot()["run"]["members"]) == 1  # whoever watches is none


def test_groups_are_listed_and_chosen_by_name(coordinator: Coordinator, watch: Watch) -> None:
    with agents(coordinator.address, "a") as (a,):
        a.wait_admitted(soon())
        assert watch.snapshot("run")["members"][0]["name"] == "a"
        with pytest.raises(CollcommError, match="there is no group 'nowhere' here; there is: 'run'"):
            watch.snapshot("nowhere")


def test_what_is_shown_comes_from_whoever_knows_more() -> None:
    richer = Telling(lambda shown: {**shown, "findings": [{"id": 7}]})
    with Coordinator("127.0.0.1:0", attendant=richer) as coordinator, Watch(coordinator.address) as watch:
        with agents(coordinator.address, "a") as (a,):
            a.wait_admitted(soon())
            assert watch.snapshot()["findings"] == [{"id": 7}]


def test_what_others_found_out_is_an_event_of_the_group(
    coordinator: Coordinator, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    with agents(coordinator.address, "a") as (a,), caplog.at_level(logging.INFO, "collcomm.coordinator"):
        a.wait_admitted(soon())
        coordinator.record("run", "finding", "a sends at a tenth of its rate", member=1, cause="communication slow")
        coordinator.record("nowhere", "finding", "of nobody")
        assert events(watch.snapshot(), "finding") == [("a", "a sends at a tenth of its rate")]
    (record,) = [r for r in caplog.records if getattr(r, "facts", {}).get("event") == "finding"]
    assert record.levelname == "WARNING" and record.facts["member"] == 1  # type: ignore[attr-defined]
    assert "joined" in [getattr(r, "facts", {}).get("event") for r in caplog.records]


def test_what_cannot_be_shown_is_said(caplog: pytest.LogCaptureFixture) -> None:
    broken = Telling(lambda shown: {"at": float("nan")})
    with Coordinator("127.0.0.1:0", attendant=broken) as coordinator, Watch(coordinator.address) as watch:
        with agents(coordinator.address, "a") as (a,):
            a.wait_admitted(soon())
            with caplog.at_level(logging.CRITICAL), pytest.raises(CollcommError, match="no snapshot could be made"):
                watch.snapshot()
            assert watch.hail().leads  # and the coordinator goes on


# ---- who is let in ------------------------------------------------------------------------------------------------


def test_the_secret_is_asked_for() -> None:
    with Coordinator("127.0.0.1:0", secret="s3cret") as coordinator:
        with Watch(coordinator.address, secret="s3cret") as watch:
            assert watch.look() == []
        with Watch(coordinator.address, secret="guess") as watch, pytest.raises(AuthenticationFailed):
            watch.look(timeout=WAIT_SECONDS)
        with Watch(coordinator.address) as watch, pytest.raises(AuthenticationFailed, match="wants to know who joins"):
            watch.look(timeout=WAIT_SECONDS)


def test_nobody_there_is_said_in_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with Watch(f"127.0.0.1:{taken.getsockname()[1]}") as watch:
            with pytest.raises(CoordinatorUnavailable, match="nothing listens there"):
                watch.look(timeout=0.5)


def test_a_standby_says_so() -> None:
    class Standby(MemoryStore):
        leader = "10.0.0.9:48148"

        def leads(self) -> bool:
            return False

    with Coordinator("127.0.0.1:0", store=Standby()) as coordinator, Watch(coordinator.address) as watch:
        with pytest.raises(CoordinatorUnavailable, match=r"stands by and does not lead \(10.0.0.9:48148 does\)"):
            watch.look(timeout=1.0)
        assert not watch.hail().leads


def test_a_coordinator_that_comes_back_is_found_again() -> None:
    with Coordinator("127.0.0.1:0") as coordinator, Watch(coordinator.address) as watch:
        assert watch.look() == []
        coordinator.close()
        with pytest.raises(CoordinatorUnavailable):
            watch.look(timeout=0.3)
        with Coordinator(coordinator.address):
            assert watch.look(timeout=WAIT_SECONDS) == []


# ---- what a watcher may cost --------------------------------------------------------------------------------------


@pytest.fixture
def dealers(coordinator: Coordinator) -> Iterator[Any]:
    context: zmq.Context[Any] = zmq.Context()

    def make() -> zmq.Socket[bytes]:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, CONTROL_PREFIX + secrets.token_bytes(16))
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, int(WAIT_SECONDS * 1e3))
        dealer.connect(f"tcp://{coordinator.address}")
        return dealer

    yield make
    context.destroy(0)


def test_who_asks_too_often_is_told_to_wait(dealers: Any) -> None:
    dealer = dealers()
    for number in range(200):
        dealer.send(encode({"t": "watch", "group": "", "number": number}))
    answers = [decode(dealer.recv(), watching=True) for _ in range(200)]
    kinds = [answer["t"] for answer in answers]
    assert kinds[0] == "groups" and "unseen" in kinds
    assert 20 <= kinds.count("groups") < 100
    assert "too often" in next(answer["text"] for answer in answers if answer["t"] == "unseen")


def test_so_many_are_served_at_a_time(dealers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiries, "MOST_WATCHERS", 2)
    monkeypatch.setattr(inquiries, "IDLE_SECONDS", 1e9)
    kinds, three = [], [dealers() for _ in range(3)]
    for dealer in three:
        dealer.send(encode({"t": "hail", "number": 1}))
        kinds.append(decode(dealer.recv())["t"])
    assert kinds == ["hailed", "hailed", "unseen"]


def test_who_does_not_read_gets_one_snapshot_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the unread ones would fill the coordinator's memory."""
    big = {"events": ["x" * (3 << 20)]}
    monkeypatch.setattr(showing, "LEFT_OUT_FIRST", ())
    attendant = Telling(lambda shown: big)
    with Coordinator("127.0.0.1:0", attendant=attendant) as coordinator, Watch(coordinator.address) as watch:
        with agents(coordinator.address, "a") as (a,):
            a.wait_admitted(soon())
            context: zmq.Context[Any] = zmq.Context()
            lazy = context.socket(zmq.DEALER)
            try:
                lazy.setsockopt(zmq.IDENTITY, CONTROL_PREFIX + secrets.token_bytes(16))
                lazy.setsockopt(zmq.RCVHWM, 1)
                lazy.setsockopt(zmq.RCVBUF, 4096)
                lazy.connect(f"tcp://{coordinator.address}")
                for number in range(12):
                    lazy.send(encode({"t": "watch", "group": "run", "number": number}))
                    watch.hail()  # the coordinator has seen it by then
                lazy.setsockopt(zmq.RCVTIMEO, int(WAIT_SECONDS * 1e3))
                kinds = [decode(lazy.recv(), watching=True)["t"] for _ in range(12)]
                assert kinds.count("snapshot") < 8 and "unseen" in kinds
            finally:
                context.destroy(0)


def test_another_version_is_answered(dealers: Any) -> None:
    import msgpack

    dealer = dealers()
    dealer.send(msgpack.packb({"v": VERSION + 1, "t": "watch", "group": "", "number": 1}))
    assert "install the same collcomm everywhere" in decode(dealer.recv())["text"]


# ---- the way between ----------------------------------------------------------------------------------------------


def test_a_hail_tells_time_versions_and_where_we_come_from(coordinator: Coordinator, watch: Watch) -> None:
    hail = watch.hail()
    assert abs(hail.offset) <= hail.trip  # the same clock
    assert hail.seen == "127.0.0.1" and hail.relay_port == coordinator.relay_port
    assert hail.facts["protocol"] == str(VERSION) and hail.facts["numpy"]


def test_trains_go_both_ways(watch: Watch) -> None:
    for load, back in ((65536, 0), (0, 65536)):
        count, seconds = watch.train(8, load, back)
        assert count == 8 and 0 < seconds < WAIT_SECONDS
    with pytest.raises(ValueError, match="1 to 64"):
        watch.train(65, 0, 0)


def test_all_trains_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiries, "TRAIN_BYTES", 10 * 65536)
    monkeypatch.setattr(inquiries, "TRAIN_RATE", 1)
    with (
        Coordinator("127.0.0.1:0") as coordinator,
        Watch(coordinator.address) as one,
        Watch(coordinator.address) as other,
    ):
        assert one.train(8, 65536, 0)[0] == 8
        with pytest.raises(CollcommError, match="others measure just now"):
            other.train(8, 0, 65536)
        assert other.hail().leads  # nothing else is refused


@pytest.mark.parametrize(
    ("says", "outcome"), [(b"t" * 16, "reached"), (b"HTTP/1.1 400 Bad Request", "other"), (None, "refused")]
)
def test_the_coordinator_dials_back(watch: Watch, says: bytes | None, outcome: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if says is None:
            listener.close()

        def answer() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.sendall(says or b"")
                with contextlib.suppress(ConnectionResetError):  # it does not read on
                    caller.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        if says is not None:
            thread.start()
        found, text = watch.dialled(port, b"t" * 16)
        assert found == outcome and bool(text) == (outcome != "reached")
        if says is not None:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


def test_a_snapshot_that_is_too_long_says_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "MOST_BYTES", 500)
    whole = {"group": "run", "traffic": ["x" * 200], "links": ["y" * 300], "history": [1], "events": [2]}
    found = json.loads(showing.encoded(whole))
    assert found["left_out"] == ["traffic"] and found["links"] == whole["links"] and found["events"] == [2]
    with pytest.raises(ValueError, match="longer than"):
        showing.encoded({"members": ["z" * 600]})


def test_bounds_are_those_of_the_schema() -> None:
    from collcomm.membership.chronicle import MOST_EVENTS

    assert (MOST_EVENTS, showing.SCHEMA) == (schema.MOST_EVENTS, schema.VERSION)


def test_whoever_watches_is_no_reason_to_end(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Telling):
        def tick(self, now: float, group: str, view: Any, links: Any, ways: Any) -> Sequence[Any]:
            raise ZeroDivisionError

    broken = Broken(dict)
    with Coordinator("127.0.0.1:0", attendant=broken) as coordinator, Watch(coordinator.address) as watch:
        with caplog.at_level(logging.CRITICAL), agents(coordinator.address, "a") as (a,):
            a.wait_admitted(soon())
            time.sleep(0.6)  # it has looked by then
            assert watch.snapshot()["group"] == "run"
