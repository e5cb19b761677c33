"""What commands print: units, pages made of snapshots whatever is in them, log records as JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collcomm.console import reach, units
from collcomm.console.checkup import Level, Line, in_words, worst
from collcomm.console.jsonlog import JsonFormatter
from collcomm.console.page import open_findings, page_of, plain
from collcomm.membership.chronicle import Chronicle, Exit


def member(number: int, **more: Any) -> dict[str, Any]:
    usual = {"host": f"10.0.0.{number}", "state": "communicating", "heard": 0.01, "rate": 50.0, "sent": 1e6}
    return {"id": number, "rank": number - 1, "name": f"lab-{number}", **usual, **more}


def operation(*waiting_on: int) -> dict[str, Any]:
    return {"gid": 0, "seq": 1412, "kind": "all_reduce", "nbytes": 1 << 20, "age": 2.5, "waiting_on": list(waiting_on)}


FINDING = {
    "id": 1,
    "syndrome": "communication slow",
    "culprit": "sender",
    "members": [3],
    "names": ["lab-3"],
    "at": 1_700_000_100.0,
    "evidence": "9 times as long as usual",
    "confidence": 0.93,
    "action": None,
    "ended": None,
}
SNAPSHOT: dict[str, Any] = {
    "version": 1,
    "at": 1_700_000_200.0,
    "group": "run-7",
    "state": "steady",
    "epoch": 7,
    "since": 1_700_000_020.0,
    "pending": 1,
    "members": [
        member(1, operation=operation(3)),
        member(2, operation=operation(3), late=0.002),
        member(3, operation=None, state="silent", heard=1.1),
    ],
    "findings": [FINDING, {**FINDING, "id": 2, "ended": 1_700_000_150.0, "names": ["lab-2"]}],
    "events": [{"at": 1_700_000_020.0, "kind": "died", "member": 4, "name": "lab-4", "text": "silent for 1.3 s"}],
}


# ---- units --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (2e-6, "2 us"), (0.0123, "12.3 ms"), (2.5, "2.5 s"), (180, "3 min"), (7200, "2.0 h")],
)
def test_seconds(value: float | None, text: str) -> None:
    assert units.seconds(value) == text


def test_sizes_and_rates() -> None:
    assert [units.size(n) for n in (None, 0, 1536, 3 << 30, 1 << 60)] == [
        "-",
        "0 B",
        "1.5 KiB",
        "3 GiB",
        "1.049e+06 TiB",
    ]
    assert [units.rate(n) for n in (None, 5, 1.25e8, 1e10)] == ["-", "5 B/s", "125 MB/s", "10 GB/s"]


def test_what_others_wrote_cannot_reach_the_terminal() -> None:
    assert units.printable("lab\x1b[2J\n3") == "lab?[2J?3"
    assert len(units.printable("x" * 1000, 50)) == 50


# ---- pages --------------------------------------------------------------------------------------------------------


def test_a_page_says_who_waits_for_whom() -> None:
    text = plain(page_of(SNAPSHOT))
    assert "group run-7: 3 members, 1 waits to be admitted; view 7 for 3 min" in text
    lines = {line.split()[1]: line for line in text.splitlines() if "10.0.0." in line}
    rows = [line for line in text.splitlines() if "lab-" in line and "10.0.0." in line]
    assert "all_reduce #1412, 1 MiB" in rows[0] and "lab-3" in rows[0] and "2.5 s" in rows[0]
    assert rows[2].startswith("!") and "silent" in rows[2]
    assert len(lines) == 3


def test_pairs_that_go_through_a_third_are_named() -> None:
    pairs = [{"members": [1, 2], "relay": 3}, {"members": [2, 3], "relay": 0}]
    text = plain(page_of({**SNAPSHOT, "relayed": pairs}))
    assert "linked through a third: lab-1 and lab-2 through lab-3, lab-2 and lab-3 through the coordinator" in text
    assert "and 7 more pairs" in plain(page_of({**SNAPSHOT, "relayed": 5 * pairs}))


def test_findings_and_events_are_told_and_open_ones_come_first() -> None:
    text = plain(page_of({**SNAPSHOT, "findings": SNAPSHOT["findings"][::-1]}))
    found = [line for line in text.splitlines() if "communication slow" in line]
    assert found[0].startswith("!") and "lab-3" in found[0] and "93%" in found[0] and " now " in found[0]
    assert "until" in found[1]
    assert "1 finding now" in text and "died" in text and "silent for 1.3 s" in text
    assert [finding["id"] for finding in open_findings(SNAPSHOT)] == [1]


def test_those_for_whom_most_wait_come_first() -> None:
    rows = page_of(SNAPSHOT, by_waits=True).sheets[0].rows
    assert [row[1] for row in rows] == ["lab-3", "lab-1", "lab-2"]
    assert rows[0][7] == "2"
    assert "2 more are not shown" in page_of(SNAPSHOT, most_rows=1).sheets[0].title


def test_what_nobody_knows_takes_no_room() -> None:
    text = plain(page_of({"group": "g", "epoch": 1, "members": [{"id": 1, "rank": 0, "name": "a"}]}))
    assert "received" not in text and "rank" in text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MEMBER = st.dictionaries(st.sampled_from([*member(1), "operation", "late", "rtt"]), ANYTHING)
OPERATION = st.dictionaries(st.sampled_from([*operation()]), ANYTHING)


@given(
    st.dictionaries(st.sampled_from([*SNAPSHOT, "links", "relayed"]), ANYTHING),
    st.lists(MEMBER | st.fixed_dictionaries({"id": ANYTHING, "operation": OPERATION}), max_size=4),
    st.lists(st.dictionaries(st.sampled_from([*FINDING]), ANYTHING), max_size=3),
)
@example({}, [], [{"id": None, "members": 1}])
def test_no_snapshot_breaks_a_page(rest: dict[str, Any], members: list[Any], findings: list[Any]) -> None:
    for snapshot in (rest, {**rest, "members": members, "findings": findings, "events": findings, "relayed": findings}):
        text = plain(page_of(snapshot, by_waits=True))
        assert "\x1b" not in text


def test_tables_hold_the_same() -> None:
    from rich.console import Console

    from collcomm.console.tables import drawn

    named = {**SNAPSHOT, "members": [member(1, name="[bold]evil[/bold]")]}
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(drawn(page_of(named), "the coordinator is away"))
    text = console.export_text()
    assert "the coordinator is away" in text and "[bold]evil[/bold]" in text and "lab-3" in text


# ---- examinations -------------------------------------------------------------------------------------------------


def test_lines_of_an_examination() -> None:
    lines = [Line("port", Level.OK, "open"), Line("clock", Level.WARNING, "5 s ahead", "run chrony", {"offset": 5.0})]
    assert worst(lines) is Level.WARNING and worst([]) is Level.OK
    assert "warning  clock  5 s ahead" in in_words(lines) and "-> run chrony" in in_words(lines)
    assert lines[1].row() == {
        "what": "clock",
        "level": "warning",
        "text": "5 s ahead",
        "advice": "run chrony",
        "offset": 5.0,
    }


@pytest.mark.parametrize(
    ("outcome", "word"),
    [("refused", "nothing listens"), ("silent", "firewall drops"), ("unreachable", "no host there")],
)
def test_a_port_that_does_not_answer_is_told_apart(outcome: str, word: str) -> None:
    line = reach.judge_port("port", "10.0.0.9:48148", outcome, 4.0, "10.0.0.1")
    assert line.level is Level.PROBLEM and word in line.text and line.advice


def test_a_name_that_does_not_exist_is_a_problem() -> None:
    place, line = reach.resolve("no-such-host.invalid", 48148, 10.0)
    assert place is None and line.level is Level.PROBLEM and line.advice


def test_a_name_with_ipv6_addresses_only_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::1", 48148, 0, 0))]
    )
    place, line = reach.resolve("lab", 48148, 5.0)
    assert place is None and "[fd00::1]:48148" in line.advice


def test_a_resolver_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import threading

    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(30) and [])
    place, line = reach.resolve("lab", 48148, 0.05)
    ended.set()
    assert place is None and "no answer about lab" in line.text


# ---- logs ---------------------------------------------------------------------------------------------------------


def test_log_records_are_objects_with_the_facts_of_events() -> None:
    event = Chronicle("run-7").exit(1.0, Exit.SILENT, 7, "silent for 1.3 s", 3, "lab-3")
    record = logging.LogRecord("collcomm.coordinator", logging.WARNING, "", 0, "%s is out", ("lab-3",), None)
    record.facts = event.facts
    found = json.loads(JsonFormatter().format(record))
    assert found["time"].endswith("+00:00") and found["level"] == "WARNING"
    assert found["message"] == "lab-3 is out"
    assert (found["event"], found["group"], found["member"], found["name"]) == ("died", "run-7", 3, "lab-3")
    assert (found["cause"], found["text"], found["epoch"]) == ("silent", "silent for 1.3 s", 7)


def test_a_record_with_an_exception_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    record.facts = {"time": "forged", "weird": {1, 2}.__class__}
    text = JsonFormatter().format(record)
    assert "\n" not in text and "ValueError" in json.loads(text)["exception"]
    assert json.loads(text)["time"] != "forged"


def test_a_chronicle_is_bounded_and_counts_all() -> None:
    chronicle = Chronicle("run")
    for number in range(2000):
        chronicle.exit(float(number), Exit.LEFT, 1, "left", number, f"p{number}")
    assert len(chronicle.events) == 500 and chronicle.totals["left", "left"] == 2000
    assert chronicle.history[-1] == (1999.0, 1, "p1999", "left")
