"""Reports: of any dumps, in one file, with the right numbers, and safe to open whatever the names in them are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from collcomm.cli import main
from collcomm.console.report import page
from collcomm.health.dump import Dump
from collcomm.health.dumpfiles import SUFFIX, write_dump
from collcomm.health.observation import OpenOperation
from collcomm.health.records import TransferRecord
from collcomm.health.replay import diagnose
from collcomm.health.review import review, size_class
from tests.support.flights import TOOK, Flight

PNG = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "br", "img"}


class Checked(HTMLParser):
    """Tags are closed in order; nothing is loaded from anywhere, and nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value is not None and value.startswith("data:image/png;base64,")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _text(dumps: Sequence[Dump]) -> str:
    found = page(review(dumps), diagnose(dumps))
    parser = Checked()
    parser.feed(found)
    parser.close()
    assert parser.open == []
    assert "url(" not in found and "@import" not in found
    return " ".join(parser.texts)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_durations_by_kind_and_size() -> None:
    flight = Flight(n=2, count=100)
    first, second = flight.dumps()
    longer = [one._replace(exit=one.enter + 1.0) if one.seq == 50 else one for one in first.operations]
    small = [one._replace(kind="broadcast", nbytes=1000, exit=one.enter + 0.5) for one in first.operations[:10]]
    failed = [one._replace(outcome="PeerLost", exit=one.enter + 99.0) for one in first.operations[:5]]
    found = review([replace(first, operations=[*longer, *small, *failed]), second]).durations
    assert [(one.kind, one.nbytes, one.operations) for one in found] == [
        ("all_reduce", 1 << 20, 200), ("broadcast", 1024, 10),
    ]  # fmt: skip
    assert found[0].median == pytest.approx(TOOK, abs=1e-4)
    assert (found[0].high, found[0].longest) == pytest.approx((TOOK, 1.0), abs=1e-4)
    assert found[1].median == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("nbytes", "wanted"), [(0, 0), (1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048), (1 << 62, 1 << 62)]
)
def test_size_classes(nbytes: int, wanted: int) -> None:
    assert size_class(nbytes) == wanted


def test_who_comes_late() -> None:
    found = {one.member: one for one in review(Flight(n=3, late={2: 0.03}, skew={2: 50.0}).dumps()).lateness}
    assert found[2].median == pytest.approx(0.03, abs=1e-5)
    assert found[2].last == 1.0
    assert found[1].median == found[3].median == pytest.approx(0.0, abs=1e-5)


def test_what_a_byte_takes_by_link() -> None:
    flight = Flight(n=3, slow={2: 8.0}, boots={2: 77.0}, skew={3: 4.0})
    costs = review(flight.dumps()).costs
    assert costs.keys() == {(1, 2), (2, 3), (3, 1)}
    usual, slow = (0.001 + TOOK * 0.1) / flight.nbytes, (0.001 + TOOK * 0.1 * 8.0) / flight.nbytes
    assert costs[1, 2] == pytest.approx(usual, rel=1e-2)
    assert costs[2, 3] == pytest.approx(slow, rel=1e-2)
    alone = review([flight.dump(2)]).costs
    assert alone.keys() == {(1, 2), (2, 3)}
    assert alone[2, 3] == pytest.approx(TOOK * 0.1 * 8.0 / flight.nbytes, rel=1e-2)


def test_messages_of_one_operation_over_one_stream_are_told_apart() -> None:
    """Each took 2 ms from when both ends were ready: the first sent is the first received."""
    first, second = Flight(n=2, count=1).dumps()
    ready = first.transfers[0].ready
    parts = [
        (ready + 0.01 * number, ready + 0.01 * number + 0.002, nbytes) for number, nbytes in enumerate((8192, 64, 8192))
    ]
    shift = Flight().boots.get(2, 2000.0) - Flight().boots.get(1, 1000.0)

    def moved(member: int, incoming: bool, by: float) -> list[TransferRecord]:
        return [TransferRecord(0, 3, 0, member, 0, incoming, a + by, b + by, b + by, size) for a, b, size in parts]

    sent = replace(first, transfers=moved(2, False, 0.0))
    received = replace(second, transfers=moved(1, True, shift))
    assert review([sent, received]).costs == {(1, 2): pytest.approx(0.004 / 16384, rel=1e-3)}


def test_what_took_no_time_by_inexact_clocks_is_left_out() -> None:
    first, second = Flight(n=2, count=20).dumps()
    early = [one._replace(ready=one.ready + 9.0) if one.seq % 2 else one for one in first.transfers if not one.incoming]
    costs = review([replace(first, transfers=early), second]).costs
    assert costs[1, 2] == pytest.approx((0.001 + TOOK * 0.1) / first.operations[0].nbytes, rel=1e-2)
    always = [one._replace(ready=one.ready + 9.0) for one in first.transfers if not one.incoming]
    assert (1, 2) not in review([replace(first, transfers=always), second]).costs


def test_the_slowest_operation_and_who_came_last() -> None:
    flight = Flight(n=2, late={2: 0.01})
    first, second = flight.dumps()
    longer = [one._replace(commit=one.commit + 0.5) if one.seq == 7 else one for one in first.operations]
    slowest = review([replace(first, operations=longer), second]).slowest
    assert len(slowest) == 20
    assert (slowest[0].key, slowest[0].came) == ((0, 3, 7), 2)
    assert slowest[0].seconds == pytest.approx(TOOK + 0.51, abs=1e-4)
    assert slowest[1].late == pytest.approx(0.01, abs=1e-5)


# -- pages -------------------------------------------------------------------------------------------------------------


def test_a_page_names_who_is_to_blame() -> None:
    opens = {one: OpenOperation(0, 3, 50, "all_reduce", 1 << 20, 7.9, 7.5, (4,)) for one in (1, 2, 3)}
    text = _text(Flight(n=4, opens=opens, after=8.0).dumps())
    assert "non-communication hang: lab-4" in text
    assert "open; waits for lab-4; silent for 7.5 s" in text
    assert "in no operation" in text


def test_pages_of_few_dumps() -> None:
    whole = Flight(n=3)
    assert "lab-2, lab-3" in _text([whole.dump(1)])
    assert "lab-3" in _text([whole.dump(1), whole.dump(2, count=10)])
    empty = Flight(n=2, count=0)
    assert "Nothing was found" in _text([empty.dump(1)])
    assert "Nothing was found" in _text([empty.dump(1), whole.dump(2)])
    _text([])


def test_names_are_text_and_nothing_else() -> None:
    evil = "<script>alert('$x_{1}$')</script>\"'&"
    dump = Flight(n=2, kind=evil[:60]).dump(1)
    members = tuple(one._replace(name=evil, host=evil) for one in dump.header.members)
    header = replace(dump.header, group=evil, name=evil, members=members)
    operations = [one._replace(outcome=evil[:60], algorithm=evil[:60]) for one in dump.operations]
    text = _text([replace(dump, header=header, host=evil, reason=evil, python=evil, operations=operations)])
    assert text.count(evil) > 3


def test_moments_that_cannot_be_are_shown() -> None:
    assert "999999999999.000 s" in _text([replace(Flight(n=1, count=0).dump(1), wall=999999999999.0)])


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    flight = Flight(n=3)
    for dump in flight.dumps()[:2]:
        write_dump(tmp_path / f"{dump.header.name}{SUFFIX}", dump)
    write_dump(tmp_path / f"lab-1-before{SUFFIX}", flight.dump(1, count=5))
    return tmp_path


def test_report_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, png = folder / "r.html", folder / "r.png"
    assert main(["report", str(folder), "-o", str(html), "--png", str(png)]) == 0
    said = capsys.readouterr().out
    assert "2 peers of group 'run-7'" in said
    assert "no dump of: lab-3" in said
    assert "left out: 1 of 3 dumps" in said
    assert png.read_bytes().startswith(PNG)
    assert len(re.findall("data:image/png;base64,", html.read_text())) == 4


def test_a_damaged_dump_is_left_out_with_the_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = folder / f"damaged{SUFFIX}"
    damaged.write_bytes(b"nothing of the kind")
    assert main(["trace", str(folder), "-o", str(folder / "t.json")]) == 0
    assert f"left out: {damaged} is not a dump that can be read" in capsys.readouterr().out
    assert main(["trace", str(damaged), "-o", str(folder / "u.json")]) == 2
    assert "there is no dump that can be used" in capsys.readouterr().out
    assert not (folder / "u.json").exists()


def test_of_several_groups_one_is_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Flight(n=1).dump(1)
    write_dump(folder / f"other{SUFFIX}", replace(other, header=replace(other.header, group="run-8")))
    out = ["-o", str(folder / "t.json")]
    assert main(["trace", str(folder), *out]) == 2
    assert "several groups: run-7, run-8; choose one with --group" in capsys.readouterr().out
    assert main(["trace", str(folder), "--group", "run-8", *out]) == 0
    assert "1 peer of group 'run-8'" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--last", "0"], ["--last", "x"], ["--last", "nan"]])
def test_impossible_spans_are_refused(folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trace", str(folder), *arguments])
    assert "--last" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    for name in ("collcomm.console.plots", "collcomm.console.report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(folder), "-o", str(folder / "r.html")]) == 2
    assert "pip install 'collcomm[report]'" in capsys.readouterr().out
