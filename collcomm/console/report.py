"""A report of what dumps say, as one HTML file that needs nothing beside it: a person can attach it to an issue."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from ..health.dump import Dump
from ..health.finding import CulpritKind, Finding
from ..health.review import Review
from . import units
from .plots import PANELS, panel

LAST = 10  # operations of each peer
MOST_LISTED = 200  # members, and peers whose last operations are shown
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #22303c; background: #fff; max-width: 76rem;
  margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.about { color: #5c6f82; margin-top: 0; } p.none { color: #5c6f82; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e3e8ed; vertical-align: top; }
th { font-weight: 600; color: #5c6f82; white-space: nowrap; } td.number { text-align: right; }
td { max-width: 26rem; overflow-wrap: break-word; }
td:nth-child(-n+2) { white-space: nowrap; } td.bad { color: #b0202e; font-weight: 600; }
.finding { border-left: 4px solid #d62839; background: #fdf1f2; padding: .5rem 1rem; margin: .5rem 0; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; } .panels figure { margin: 0; flex: 1 1 30rem; }
img { max-width: 100%; height: auto; } figcaption { color: #5c6f82; font-size: .87rem; }
details { margin: .4rem 0; } summary { cursor: pointer; } .wide { overflow-x: auto; }
@media print { body { max-width: none; } }
"""
EXPLAINED = {
    "Durations": "From the call to the return, at all peers.",
    "Lateness": "By how much a peer came to operations later than the first. The others waited for it.",
    "What a byte takes": "From when both ends were ready to the last byte. A dark cell is a link, a dark row a sender, a dark "
    "column a receiver. In a ring all are as slow as its slowest link.",
}


def page(review: Review, findings: Sequence[Finding]) -> str:
    """``findings``: of the diagnosis."""
    group = review.dumps[0].header.group if review.dumps else ""
    made = max((dump.wall for dump in review.dumps), default=0.0)
    title = f"Group {group}: what {_count(len(review.dumps), 'peer')} remembered"
    sections = [
        f"<h1>{escape(title)}</h1><p class='about'>until {_moment(made)}</p>",
        _section("Findings", _findings(review, findings)),
        _section("Peers", _peers(review)),
        _section("Timeline", _figure(review, "Timeline", f"The last operations of each peer. {_exactness(review)}")),
        _section("In numbers", _panels(review)),
        _section("Durations", _durations(review)),
        _section("Who comes late", _lateness(review)),
        _section("The slowest operations", _slowest(review)),
        _section("Last before the dump", "".join(_last(review, dump) for dump in review.dumps[:MOST_LISTED])),
    ]
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{escape(title)}</title>"
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>{''.join(sections)}</body></html>"


def in_words(review: Review, finding: Finding) -> str:
    """Syndrome and culprit, with names."""
    names = [_name(review, member) for member in finding.culprit.members]
    who = {
        CulpritKind.LINK: f"the link from {names[0]} to {names[-1]}",
        CulpritKind.SENDER: f"what {names[0]} sends",
        CulpritKind.RECEIVER: f"what {names[0]} receives",
        CulpritKind.RANK: " and ".join(names),
    }[finding.culprit.kind]
    return f"{finding.syndrome}: {who}"


def _findings(review: Review, findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p class='none'>Nothing was found to be wrong, by what is in these dumps.</p>"
    return "".join(
        f"<div class='finding'><strong>{escape(in_words(review, one))}</strong><br>{escape(one.evidence)}<br>"
        f"<small>{_moment(one.at)}, confidence {one.confidence:.0%}</small></div>"
        for one in findings[:MOST_LISTED]
    )


def _peers(review: Review) -> str:
    rows = []
    for dump, clock in zip(review.dumps, review.clocks, strict=True):
        header = dump.header
        how = f"by {clock.common:,} operations" if clock.common else "by its wall clock"
        facts = f"collcomm {dump.library}, Python {dump.python}, process {dump.pid}"
        row = [header.rank, header.name, header.member, dump.host, header.epoch, len(dump.operations)]
        rows.append([*row, len(dump.transfers), dump.reason, _moment(dump.wall), how, facts])
    heads = [
        "rank",
        "name",
        "member",
        "host",
        "view",
        "operations",
        "transfers",
        "dump",
        "made (its clock)",
        "clock set",
        "with",
    ]
    listed = _table(heads, rows[:MOST_LISTED])
    if not review.missing:
        return listed
    names = ", ".join(_name(review, member) for member in review.missing[:MOST_LISTED])
    return f"{listed}<p>Members of the last view without a dump: {escape(names)}</p>"


def _panels(review: Review) -> str:
    figures = [_figure(review, title, f"{title}. {text}") for title, text in EXPLAINED.items()]
    return f"<div class='panels'>{''.join(figures)}</div>"


def _figure(review: Review, title: str, caption: str) -> str:
    assert title in PANELS
    picture = base64.b64encode(panel(review, title)).decode()
    text = escape(caption)
    source = f"data:image/png;base64,{picture}"
    return f"<figure><img alt='{escape(title)}' src='{source}'><figcaption>{text}</figcaption></figure>"


def _exactness(review: Review) -> str:
    if len(review.clocks) < 2:
        return ""
    by_wall = sum(1 for clock in review.clocks if not clock.common) - 1  # one is what the others are set by
    if by_wall <= 0:
        return "All are on one clock, to within the time that a message takes between two of them."
    return f"{_count(by_wall, 'peer')} had no operations in common with the others: there, by wall clocks."


def _durations(review: Review) -> str:
    rows = [
        [one.kind, units.size(one.nbytes), one.operations, *map(units.seconds, (one.median, one.high, one.longest))]
        for one in review.durations
    ]
    return _table(["operation", "up to", "count", "median", "99 in 100", "longest"], rows)


def _lateness(review: Review) -> str:
    rows = [
        [
            _name(review, one.member),
            one.operations,
            units.seconds(one.median),
            units.seconds(one.high),
            f"{one.last:.0%}",
        ]
        for one in review.lateness
    ]
    return _table(["peer", "operations", "median", "99 in 100", "came last in"], rows)


def _slowest(review: Review) -> str:
    rows = []
    for one in review.slowest:
        gid, epoch, seq = one.key
        late = f"{_name(review, one.came)}, {units.seconds(one.late)} after the first"
        what = [one.kind, units.size(one.nbytes), one.algorithm, seq, epoch, gid]
        rows.append([_moment(one.began), units.seconds(one.seconds), *what, late])
    heads = ["began", "took", "operation", "bytes", "algorithm", "number", "view", "communicator", "came last"]
    return _table(heads, rows)


def _last(review: Review, dump: Dump) -> str:
    rows = [
        [
            one.seq,
            one.kind,
            units.size(one.nbytes),
            one.algorithm,
            f"{units.seconds(max(0.0, dump.monotonic - one.enter))} before",
            units.seconds(max(0.0, one.exit - one.enter)),
            units.seconds(one.waited),
            one.outcome or "done",
        ]
        for one in dump.operations[-LAST:]
    ]
    for one in dump.header.open:
        waits = ", ".join(_name(review, member) for member in one.waiting_on) or "nobody"
        silent = f"open; waits for {waits}; silent for {units.seconds(one.silent)}"
        age = units.seconds(one.age)
        rows.append([one.seq, one.kind, units.size(one.nbytes), "", f"{age} before", age, "", silent])
    heads = ["number", "operation", "bytes", "algorithm", "called", "took", "waited", "outcome"]
    inside = "" if dump.header.open else " <span>in no operation</span>"
    table = _table(heads, rows, bad={"outcome": "done"})
    is_open = " open" if dump.header.open or any(one.outcome for one in dump.operations[-LAST:]) else ""
    return f"<details{is_open}><summary>{escape(dump.header.name)}{inside}</summary>{table}</details>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2><div class='wide'>{content}</div>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], bad: dict[str, str] | None = None) -> str:
    """``bad``: by column, the only value that is not."""
    rows = list(rows)
    if not rows:
        return "<p class='none'>nothing</p>"
    good = {number: (bad or {})[head] for number, head in enumerate(heads) if head in (bad or {})}
    lines = []
    for row in rows:
        cells = []
        for number, value in enumerate(row):
            marked = number in good and value != good[number]
            kind = " class='bad'" if marked else " class='number'" if isinstance(value, int) else ""
            text = f"{value:,}" if isinstance(value, int) else escape(str(value))
            cells.append(f"<td{kind}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _name(review: Review, member: int) -> str:
    return review.names.get(member, f"member {member}")


def _moment(wall: float) -> str:
    """Of a clock that may say anything."""
    try:
        return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
    except (ValueError, OverflowError, OSError):
        return f"{wall:.3f} s"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
