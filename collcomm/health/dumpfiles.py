"""Dumps as files: written as a whole or not at all, and found again."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .dump import MOST_BYTES, Dump, decode_dump, encode_dump, summary

SUFFIX = ".dump.msgpack"
SUMMARY_SUFFIX = ".dump.json"
MOST_FILES = 10_000


def write_dump(path: Path, dump: Dump) -> None:
    """Write ``path``, whose name ends in `SUFFIX`, and the summary beside it; both are for this user alone. They are not forced
    to the disk: they are to outlive this process, which ends before the machine does. Raises OSError."""
    _replace(path, encode_dump(dump))
    text = json.dumps(summary(dump), indent=1, default=str)
    _replace(summary_of(path), text.encode(errors="replace"))


def read_dump(path: Path) -> Dump:
    """Raises OSError, and ValueError, which says what is wrong with the file."""
    with open(path, "rb") as file:
        return decode_dump(file.read(MOST_BYTES + 1), str(path))


def summary_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + SUMMARY_SUFFIX)


def find_dumps(places: Iterable[Path]) -> list[Path]:
    """Files as given, and the dumps in directories and what is below them. Raises ValueError where there are none."""
    found: list[Path] = []
    for place in places:
        inside = sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place]
        if not inside:
            raise ValueError(f"in {place} is no dump; peers write them with COLLCOMM_DUMP_DIR={place}")
        found += inside
    if len(found) > MOST_FILES:
        raise ValueError(f"{len(found):,} dumps are more than {MOST_FILES:,}; name the ones that matter")
    return found


def newest(dumps: Sequence[Dump]) -> list[Dump]:
    """The last one of each peer, by rank: what came before is in it, too, as far as its rings go. Raises ValueError when they
    are of several groups."""
    groups = sorted({dump.header.group for dump in dumps})
    if len(groups) > 1:
        raise ValueError(f"there are dumps of several groups: {', '.join(groups[:8])}; choose one with --group")
    last: dict[int, Dump] = {}
    for dump in sorted(dumps, key=lambda one: one.wall):
        last[dump.header.member] = dump
    return sorted(last.values(), key=lambda one: (one.header.rank, one.header.member))


def _replace(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
