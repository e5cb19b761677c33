"""Dumps: what is written can be read, what cannot be is refused with a reason, and no trouble reaches training."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collcomm.health import recorder as flightrecorder
from collcomm.health.dump import MOST_TRANSFERS, Dump, Header, Peer, decode_dump, encode_dump
from collcomm.health.dumpfiles import SUFFIX, find_dumps, newest, read_dump, summary_of, write_dump
from collcomm.health.observation import FlowReport, Observation, OpenOperation, Sample
from collcomm.health.recorder import DIRECTORY_VARIABLE, FlightRecorder
from collcomm.health.records import OperationRecord, Recorder, TransferRecord
from tests.support.flights import Flight

OPEN = OpenOperation(0, 3, 50, "broadcast", 4096, 2.5, 1.25, (2, 3))
HEADER = Header("run-7", 2, "lab-2", 1, 3, (Peer(1, "lab-1", "a"), Peer(2, "lab-2", "b")), 0.25, {0: 7, 1: 2}, (OPEN,))


@pytest.fixture
def recorder() -> Recorder:
    recorder = Recorder(capacity=64, transfers=64)
    for record in Flight(count=10).dump(2).operations:
        recorder.operation(*record)
    return recorder


def flight(recorder: Recorder, directory: Path, **options: Any) -> FlightRecorder:
    return FlightRecorder(recorder, directory, lambda: HEADER, **options)


# -- format ----------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read() -> None:
    observation = Observation(
        2, 3, 17.5, 1.0, 10, 3, {0: 7}, 0.5, (OPEN,), (Sample(0, 3, 8, "all_reduce", 64, 0.25, 0.125),),
        (FlowReport(1, 4096, 0.5, 0.25, 0.0, 3),),
    )  # fmt: skip
    dump = replace(Flight(count=20).dump(2), header=HEADER, observations=[observation], source="here")
    assert decode_dump(encode_dump(dump), "here") == dump


def test_a_dump_of_a_peer_that_has_done_nothing() -> None:
    dump = Dump(Header("", 0, "", 0, 0, ()), 0.0, 0.0, "", "", "", "", 1, [], [], [], "x")
    assert decode_dump(encode_dump(dump), "x") == dump


_number = st.integers(0, 2**62)
_moment = st.floats(0, 1e12)
_word = st.text(max_size=64)
_moments = [_moment] * 6
_operations = st.builds(OperationRecord, _number, _number, _number, _word, _number, _word, *_moments, _word)
_transfers = st.builds(TransferRecord, *[_number] * 5, st.booleans(), *_moments[:3], _number)


@settings(deadline=None, max_examples=50)
@given(st.lists(_operations, max_size=20), st.lists(_transfers, max_size=20))
def test_any_records_come_back(operations: list[OperationRecord], transfers: list[TransferRecord]) -> None:
    dump = replace(Flight(count=0).dump(1), operations=operations, transfers=transfers, source="x")
    assert decode_dump(encode_dump(dump), "x") == dump


def test_what_cannot_be_is_brought_within_bounds_when_it_is_written() -> None:
    odd = OperationRecord(-1, 1, 2**70, "k" * 500, 2**63, "\udc80", float("nan"), -1.0, float("inf"), 2.0, 3.0, 0.0, "")
    header = replace(HEADER, member=-1, name="n" * 5000)
    found = decode_dump(encode_dump(replace(Flight(count=0).dump(1), header=header, operations=[odd])), "x")
    assert found.operations == [OperationRecord(0, 1, 2**62, "k" * 64, 2**62, "?", 0.0, 0.0, 1e12, 2.0, 3.0, 0.0, "")]
    assert (found.header.member, found.header.name) == (0, "n" * 1024)


def test_of_too_much_the_newest_is_kept() -> None:
    (one,) = Flight().transfers(1, 0)[:1]
    many = [one._replace(seq=0)] + [one] * (MOST_TRANSFERS - 1) + [one._replace(seq=9)]
    found = decode_dump(encode_dump(replace(Flight(count=0).dump(1), transfers=many)), "x")
    assert len(found.transfers) == MOST_TRANSFERS
    assert found.transfers[-1].seq == 9


def test_many_words_have_an_end() -> None:
    records = [Flight().operation(1, 0)._replace(outcome=f"Error{number}") for number in range(6000)]
    found = decode_dump(encode_dump(replace(Flight(count=0).dump(1), operations=records)), "x").operations
    assert found[0].outcome == "Error0"
    assert found[-1].outcome == "..."


@pytest.fixture(scope="module")
def written() -> bytes:
    return encode_dump(replace(Flight(n=2, count=3).dump(1), header=HEADER))


def test_a_truncated_dump_is_refused_wherever_it_ends(written: bytes) -> None:
    for length in range(len(written)):
        with pytest.raises(ValueError, match=r"^lab\.msgpack is not a dump that can be read: "):
            decode_dump(written[:length], "lab.msgpack")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_dumps_are_read_or_refused(written: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(written) - 1))
    damaged = written[:place] + bytes([data.draw(st.integers(0, 255))]) + written[place + 1 :]
    try:
        found = decode_dump(damaged, "x")
    except ValueError:
        return
    assert len(found.operations) == 3
    encode_dump(found)  # it has nothing in it that cannot be


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_dump_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="is not a dump that can be read"):
        decode_dump(data, "x")


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for name in path[:-1]:
            found = found[name]
        found[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_set("format", to="x"), "it is something else"),
        (_set("version", to=2), "version 2 of the format; this library reads 1"),
        (_set("group", to=7), "'group' is missing, or cannot be '7'"),
        (_set("rank", to=-1), "'rank'"),
        (_set("rank", to=True), "'rank'"),
        (_set("wall", to=float("nan")), "'wall'"),
        (_set("name", to="x" * 1025), "'name'"),
        (_set("members", to=[[1, "a"]]), "no row of 3 fields"),
        (_set("entered", to={"a": 1}), "'entered' is no map"),
        (_set("open", to=[[0, 1, 2, "k", 1, 0.0, 0.0, [-1]]]), "'row'"),
        (_set("operations", to=None), "in its operations: there is no table"),
        (_set("operations", "count", to=1 << 40), "0 to 131,072 rows"),
        (_set("operations", "count", to=4), "does not have 4 rows"),
        (_set("operations", "words", to=["a"]), "a value that cannot be"),
        (_set("operations", "words", to=[1]), "a word is a string"),
        (_set("transfers", "columns", "done", to=b"\xff" * 48), "'done' has a value that cannot be"),
        (_set("transfers", "columns", "incoming", to=b"\x02" * 6), "'incoming' has a value that cannot be"),
        (_set("observations", to=[[1.0, b"x"]]), "one of its observations is none"),
    ],
)
def test_what_is_wrong_is_said(written: bytes, change: Callable[[dict[str, Any]], None], complaint: str) -> None:
    found = msgpack.unpackb(written, strict_map_key=False)
    change(found)
    with pytest.raises(ValueError, match=r"^lab\.msgpack is not") as caught:
        decode_dump(msgpack.packb(found), "lab.msgpack")
    assert complaint in str(caught.value)


# -- files -----------------------------------------------------------------------------------------------------------


def test_files_and_their_summary(tmp_path: Path) -> None:
    dump = replace(Flight(count=60).dump(2), header=HEADER)
    path = tmp_path / f"lab{SUFFIX}"
    write_dump(path, dump)
    assert read_dump(path) == replace(dump, source=str(path))
    said = json.loads(summary_of(path).read_text())
    assert (said["group"], said["name"], said["reason"], said["operations"]) == ("run-7", "lab-2", "request", 60)
    assert [one["seq"] for one in said["last"]] == list(range(10, 60))
    assert said["open"] == [{**OPEN._asdict(), "waiting_on": [2, 3]}]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["lab.dump.json", "lab.dump.msgpack"]


def test_dumps_are_found_in_directories_and_below(tmp_path: Path) -> None:
    below = tmp_path / "host-1"
    below.mkdir()
    paths = [tmp_path / f"a{SUFFIX}", below / f"b{SUFFIX}"]
    for path in paths:
        write_dump(path, Flight(count=1).dump(1))
    assert find_dumps([tmp_path]) == paths
    assert find_dumps([paths[1]]) == [paths[1]]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=f"in {empty} is no dump"):
        find_dumps([empty])


def test_the_newest_dump_of_each_peer_counts() -> None:
    whole = Flight(n=2, count=5)
    old, new, other = whole.dump(1, count=2), whole.dump(1), whole.dump(2)
    assert newest([new, other, old]) == [new, other]
    stranger = replace(other, header=replace(other.header, group="run-8"))
    with pytest.raises(ValueError, match="several groups: run-7, run-8"):
        newest([new, stranger])


# -- the flight recorder -----------------------------------------------------------------------------------------------


def test_a_dump_on_request(recorder: Recorder, tmp_path: Path) -> None:
    told = Observation(2, 3, 5.0, 1.0, 10)
    maker = flight(recorder, tmp_path / "made" / "for it")
    maker.observed(told)
    path = maker.dump("request")
    assert path is not None
    found = read_dump(path)
    assert found.header == HEADER
    assert (found.reason, found.pid) == ("request", os.getpid())
    assert found.operations == recorder.operations()
    assert found.observations == [told]


def test_the_same_reason_counts_once_in_a_while(recorder: Recorder, tmp_path: Path) -> None:
    maker = flight(recorder, tmp_path)
    assert maker.dump("PeerLost") is not None
    assert maker.dump("PeerLost") is None
    assert maker.dump("request") is not None
    assert flight(recorder, tmp_path).dump("PeerLost") is not None
    assert len(find_dumps([tmp_path])) == 3


def test_only_the_newest_are_kept(recorder: Recorder, tmp_path: Path) -> None:
    maker = flight(recorder, tmp_path, keep=2, pause=0.0)
    made = [maker.dump("request") for _ in range(5)]
    assert set(find_dumps([tmp_path])) == set(made[-2:])
    assert len(list(tmp_path.iterdir())) == 4


def test_a_name_is_no_path(recorder: Recorder, tmp_path: Path) -> None:
    strange = replace(HEADER, name="../../.etc/\x00passwd " * 20)
    path = FlightRecorder(recorder, tmp_path, lambda: strange).dump("request")
    assert path is not None
    assert path.parent == tmp_path
    assert read_dump(path).header.name == strange.name


def test_a_directory_that_cannot_be_is_logged(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert flight(recorder, tmp_path / "file" / "dumps").dump("request") is None
    assert "Not a directory; make room, or choose another directory" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_logged_and_leaves_nothing(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, prefix: str) -> tuple[int, str]:
        (tmp_path / f"{prefix}x").touch()
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / f"{prefix}x")

    monkeypatch.setattr("collcomm.health.dumpfiles.tempfile.mkstemp", lambda dir, prefix: full(dir, prefix))
    assert flight(recorder, tmp_path).dump("request") is None
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_trouble_with_telling_who_it_is_is_logged(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def describe() -> Header:
        raise RuntimeError("not admitted yet")

    assert FlightRecorder(recorder, tmp_path, describe).dump("request") is None
    assert "not admitted yet" in caplog.text


def test_nothing_is_recorded_without_the_variable(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    assert FlightRecorder.from_environment(recorder, lambda: HEADER) is None


# -- signals -----------------------------------------------------------------------------------------------------------


def _dumps_after_signal(maker: FlightRecorder) -> list[str]:
    """The handler has run when this line of the main thread ends; what it asked for is finished by `close`."""
    signal.raise_signal(signal.SIGUSR1)
    maker.close()
    return sorted(read_dump(path).reason for path in maker.directory.glob(f"*{SUFFIX}"))


def test_a_signal_makes_a_dump_beside_the_users_handler(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    users = lambda number, frame: heard.append(number)  # noqa: E731
    before = signal.signal(signal.SIGUSR1, users)
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    try:
        maker = FlightRecorder.from_environment(recorder, lambda: HEADER)
        assert maker is not None
        assert _dumps_after_signal(maker) == [f"signal {signal.SIGUSR1}"]
        assert heard == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGUSR1) is users
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_two_peers_of_one_process_both_dump_and_leave_in_any_order(recorder: Recorder, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    makers = [flight(recorder, tmp_path / str(number)) for number in range(2)]
    assert all(maker.listen() for maker in makers)
    assert _dumps_after_signal(makers[0]) == [f"signal {signal.SIGUSR1}"]
    assert _dumps_after_signal(makers[1]) == [f"signal {signal.SIGUSR1}"]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_handler_that_was_set_later_stays(recorder: Recorder, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[int] = []
    maker = flight(recorder, tmp_path)
    assert maker.listen()
    later = lambda number, frame: heard.append(number)  # noqa: E731
    ours = signal.signal(signal.SIGUSR1, later)
    try:
        maker.close()
        assert signal.getsignal(signal.SIGUSR1) is later
        again = flight(recorder, tmp_path)
        assert again.listen()
        assert _dumps_after_signal(again) == []
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, ours)
        flight(recorder, tmp_path).close()
        last = flight(recorder, tmp_path)
        last.listen()
        last.close()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_who_is_asked_writes_before_it_closes(recorder: Recorder, tmp_path: Path) -> None:
    maker = flight(recorder, tmp_path)
    maker.start()
    maker.ask("ViewChanged")
    maker.close()
    assert [read_dump(path).reason for path in find_dumps([tmp_path])] == ["ViewChanged"]


def test_outside_of_the_main_thread_no_signal_is_heard(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maker = flight(recorder, tmp_path)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(maker.listen()))
    thread.start()
    thread.join(10)
    assert found == [False]
    assert "only the main thread can set that up" in caplog.text
    maker.close()


def test_a_stuck_disk_does_not_hold_up_whoever_ends(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(flightrecorder, "CLOSE_SECONDS", 0.01)
    go_on = threading.Event()

    def describe() -> Header:
        go_on.wait(10)
        return HEADER

    maker = FlightRecorder(recorder, tmp_path, describe)
    assert maker.listen()
    signal.raise_signal(signal.SIGUSR1)
    (thread,) = (one for one in threading.enumerate() if one.name == "collcomm-flight")
    maker.close()
    assert thread.is_alive()
    go_on.set()
    thread.join(10)
    assert len(find_dumps([tmp_path])) == 1
