"""A snapshot of a group as a page: a headline and tables of text, for a terminal with or without colours.

What a coordinator sends is looked at piece by piece: what is missing, or of another kind than `collcomm.health.snapshot` says,
is shown as unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import units

MOST_ROWS = 64
MOST_EVENTS = 8
MOST_FINDINGS = 8
MOST_RELAYED = 3
GRAVE = ("died", "evicted", "finding")

Piece = Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """``grave``: rows that somebody should look at."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    grave: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Page:
    headline: tuple[str, ...]
    sheets: tuple[Sheet, ...]


def pieces(snapshot: Piece, name: str) -> list[Piece]:
    """The maps in a list of ``snapshot``."""
    found = snapshot.get(name)
    return [piece for piece in found if isinstance(piece, Mapping)] if isinstance(found, list) else []


def open_findings(snapshot: Piece) -> list[Piece]:
    """Those that hold now."""
    return [finding for finding in pieces(snapshot, "findings") if finding.get("ended") is None]


def page_of(snapshot: Piece, by_waits: bool = False, most_rows: int = MOST_ROWS) -> Page:
    """``by_waits``: members for whom most others wait come first; by rank otherwise."""
    sheets = (_members(snapshot, by_waits, most_rows), _findings(snapshot), _events(snapshot))
    return Page(tuple(_headline(snapshot)), tuple(sheet for sheet in sheets if sheet.rows))


def _headline(snapshot: Piece) -> Iterator[str]:
    members = pieces(snapshot, "members")
    at, since = _float(snapshot, "at"), _float(snapshot, "since")
    age = None if at is None or since is None else max(0.0, at - since)
    pending = _float(snapshot, "pending") or 0
    waiting = f", {pending:.0f} wait{'s' if pending == 1 else ''} to be admitted" if pending else ""
    came = "" if age is None else f" for {units.seconds(age)}"
    count = f"{len(members)} member{'' if len(members) == 1 else 's'}"
    yield f"group {_text(snapshot, 'group')}: {count}{waiting}; view {_text(snapshot, 'epoch')}{came}{_state(snapshot)}"
    rates = [_float(member, "rate") for member in members]
    known = [rate for rate in rates if rate is not None]
    sent = [value for value in (_float(member, "sent") for member in members) if value is not None]
    if known or sent:
        yield f"{units.number(max(known, default=None))} operations/s, {units.rate(sum(sent) if sent else None)} sent"
    names = _names(members)
    relayed = [_relayed(pair, names) for pair in pieces(snapshot, "relayed")]
    if relayed:
        more = f" and {len(relayed) - MOST_RELAYED} more pairs" if len(relayed) > MOST_RELAYED else ""
        yield f"linked through a third: {', '.join(relayed[:MOST_RELAYED])}{more}"
    found = len(open_findings(snapshot))
    if found:
        yield f"{found} finding{'' if found == 1 else 's'} now"


def _relayed(pair: Piece, names: Mapping[Any, str]) -> str:
    ends = [names.get(member, "?") for member in _listed(pair, "members")[:2] if _hashable(member)]
    relay = pair.get("relay")
    through = names.get(relay, "?") if _hashable(relay) and relay else "the coordinator"
    return f"{' and '.join(ends)} through {through}"


def _state(snapshot: Piece) -> str:
    state = snapshot.get("state")
    words = {
        "forming": "waits for enough peers to begin",
        "changing": "the view is changing",
        "recovering": "taken over from a coordinator that was lost, hears from its peers",
    }
    return f"; {words[state]}" if isinstance(state, str) and state in words else ""


def _members(snapshot: Piece, by_waits: bool, most: int) -> Sheet:
    members = pieces(snapshot, "members")
    names = _names(members)
    waited = Counter(other for member in members for other in _waiting_on(member))
    sick = {m for finding in open_findings(snapshot) for m in _listed(finding, "members") if _hashable(m)}
    order = sorted(members, key=lambda member: _float(member, "rank") or 0)
    if by_waits:
        order.sort(key=lambda member: -waited.get(_id(member), 0))
    rows: list[tuple[str, ...]] = []
    grave = set()
    for member in order[:most]:
        if _id(member) in sick or member.get("state") == "silent":
            grave.add(len(rows))
        rows.append(_member(member, names, waited))
    title = f"members ({len(members) - most} more are not shown)" if len(members) > most else "members"
    columns = ("rank", "name", "host", "state", "operation", "age", "waits for", "waited for by")
    return Sheet(title, (*columns, "op/s", "sent", "received", "late", "heard", "rtt"), tuple(rows), frozenset(grave))


def _member(member: Piece, names: Mapping[Any, str], waited: Mapping[Any, int]) -> tuple[str, ...]:
    operation = member.get("operation")
    operation = operation if isinstance(operation, Mapping) else {}
    nbytes = _float(operation, "nbytes")
    what = "" if not operation else f"{_text(operation, 'kind')} #{_text(operation, 'seq')}"
    others = [names.get(other, f"member {other}") for other in _waiting_on(member)]
    shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    by = waited.get(_id(member), 0)
    return (
        _text(member, "rank"),
        _text(member, "name"),
        _text(member, "host"),
        _text(member, "state"),
        what if nbytes is None else f"{what}, {units.size(nbytes)}",
        units.seconds(_float(operation, "age")) if operation else "",
        shown,
        str(by) if by else "",
        units.number(_float(member, "rate")),
        units.rate(_float(member, "sent")),
        units.rate(_float(member, "received")),
        units.seconds(_float(member, "late")),
        units.seconds(_float(member, "heard")),
        units.seconds(_float(member, "rtt")),
    )


def _findings(snapshot: Piece) -> Sheet:
    found = sorted(pieces(snapshot, "findings"), key=lambda finding: finding.get("ended") is not None)[:MOST_FINDINGS]
    rows, grave = [], set()
    for number, finding in enumerate(found):
        at, ended = _float(finding, "at"), _float(finding, "ended")
        if finding.get("ended") is None:
            grave.add(number)
        confidence = _float(finding, "confidence")
        names = finding.get("names") if isinstance(finding.get("names"), list) else finding.get("members")
        who = " > ".join(units.printable(str(name)) for name in names[:4]) if isinstance(names, list) else ""
        rows.append(
            (
                "?" if at is None else units.clock(at),
                "now"
                if finding.get("ended") is None
                else f"until {units.clock(ended)}"
                if ended is not None
                else "over",
                _text(finding, "syndrome"),
                f"{_text(finding, 'culprit')} {who}",
                "" if confidence is None else f"{confidence * 100:.0f}%",
                _text(finding, "evidence"),
                _text(finding, "action") if finding.get("action") else "",
            )
        )
    columns = ("since", "", "syndrome", "culprit", "sure", "evidence", "action")
    return Sheet("findings", columns, tuple(rows), frozenset(grave))


def _events(snapshot: Piece) -> Sheet:
    rows, grave = [], set()
    for number, event in enumerate(pieces(snapshot, "events")[-MOST_EVENTS:]):
        at = _float(event, "at")
        if event.get("kind") in GRAVE:
            grave.add(number)
        name = _text(event, "name") if event.get("name") else ""
        rows.append(("?" if at is None else units.clock(at), _text(event, "kind"), name, _text(event, "text")))
    return Sheet("last events", ("at", "event", "member", ""), tuple(rows), frozenset(grave))


def plain(page: Page) -> str:
    """Without colours; columns that are empty everywhere are left out."""
    lines = list(page.headline)
    for sheet in page.sheets:
        lines += ["", f"{sheet.title}:", *_aligned(narrowed(sheet))]
    return "\n".join(lines)


def narrowed(sheet: Sheet) -> Sheet:
    """Without the columns in which nothing is known."""
    kept = [
        number
        for number in range(len(sheet.columns))
        if any(row[number] not in ("", units.UNKNOWN) for row in sheet.rows)
    ]
    rows = tuple(tuple(row[number] for number in kept) for row in sheet.rows)
    return Sheet(sheet.title, tuple(sheet.columns[number] for number in kept), rows, sheet.grave)


def _aligned(sheet: Sheet) -> Iterator[str]:
    table: Sequence[tuple[str, ...]] = (sheet.columns, *sheet.rows)
    widths = [max(len(row[number]) for row in table) for number in range(len(sheet.columns))]
    for number, row in enumerate(table):
        mark = "!" if number - 1 in sheet.grave else " "
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"{mark} {cells}".rstrip()


def _text(piece: Piece, name: str) -> str:
    value = piece.get(name)
    return units.UNKNOWN if value is None or isinstance(value, dict | list) else units.printable(str(value))


def _float(piece: Piece, name: str) -> float | None:
    value = piece.get(name)
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 else None
    )


def _hashable(value: Any) -> bool:
    return isinstance(value, int | str)


def _id(member: Piece) -> Any:
    return member.get("id") if _hashable(member.get("id")) else None


def _names(members: Sequence[Piece]) -> dict[Any, str]:
    """By id."""
    return {member.get("id"): _text(member, "name") for member in members if _hashable(member.get("id"))}


def _waiting_on(member: Piece) -> list[Any]:
    operation = member.get("operation")
    others = operation.get("waiting_on") if isinstance(operation, Mapping) else None
    return [other for other in others if _hashable(other)] if isinstance(others, list) else []


def _listed(piece: Piece, name: str) -> list[Any]:
    """What stands there, if it is a list."""
    found = piece.get(name)
    return found if isinstance(found, list) else []
