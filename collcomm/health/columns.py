"""Many records as few columns, and back: eight bytes a number, two a word, so that a dump is small and quickly read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_NUMBER = 1 << 62
MOST_SECONDS = 1e12
MOST_WORDS = 4096
MOST_LETTERS = 64  # of a word
INTEGER, SECONDS, FLAG, WORD = "integer", "seconds", "flag", "word"
_FORMAT: dict[str, np.dtype[Any]] = {
    INTEGER: np.dtype("<i8"),
    SECONDS: np.dtype("<f8"),
    FLAG: np.dtype("u1"),
    WORD: np.dtype("<u2"),
}

Kinds = Mapping[str, str]  # of each field of a record, in order
Table = dict[str, Any]


def to_columns(rows: Sequence[tuple[Any, ...]], kinds: Kinds) -> Table:
    """What is out of range is brought to the nearest that is not: what was written can be read."""
    words: dict[str, int] = {}
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    packed = {
        name: _packed(values, kind, words).astype(_FORMAT[kind]).tobytes()
        for (name, kind), values in zip(kinds.items(), columns, strict=True)
    }
    return {"count": len(rows), "columns": packed, "words": list(words)}


def from_columns(found: Any, kinds: Kinds, most: int) -> list[tuple[Any, ...]]:
    """At most ``most`` rows. Raises ValueError, saying what is wrong, whatever ``found`` is."""
    if not isinstance(found, dict) or not isinstance(found.get("columns"), dict):
        raise ValueError("there is no table")
    count, words = found.get("count"), found.get("words")
    if type(count) is not int or not 0 <= count <= most:
        raise ValueError(f"a table has 0 to {most:,} rows, not {count!r}")
    if not isinstance(words, list) or len(words) > MOST_WORDS:
        raise ValueError(f"a table has a list of at most {MOST_WORDS:,} words")
    if not all(isinstance(word, str) and len(word) <= MOST_LETTERS for word in words):
        raise ValueError(f"a word is a string of at most {MOST_LETTERS} characters")
    columns = [_unpacked(name, found["columns"].get(name), kind, count, words) for name, kind in kinds.items()]
    return list(zip(*columns, strict=True))


def _packed(values: Sequence[Any], kind: str, words: dict[str, int]) -> np.ndarray[Any, Any]:
    if kind == WORD:
        return np.array([_number_of(str(value)[:MOST_LETTERS], words) for value in values], dtype=np.int64)
    if kind == SECONDS:
        return np.clip(np.nan_to_num(np.array(values, dtype=np.float64)), 0.0, MOST_SECONDS)
    try:
        whole = np.array(values, dtype=np.int64)
    except OverflowError:
        whole = np.array([max(0, min(int(value), MOST_NUMBER)) for value in values], dtype=np.int64)
    return np.clip(whole, 0, 1 if kind == FLAG else MOST_NUMBER)


def _number_of(word: str, words: dict[str, int]) -> int:
    """The last number stands for all words for which there is no room."""
    if word not in words and len(words) >= MOST_WORDS - 1:
        word = "..."
    return words.setdefault(word, len(words))


def _unpacked(name: str, data: Any, kind: str, count: int, words: Sequence[str]) -> list[Any]:
    form = _FORMAT[kind]
    if not isinstance(data, bytes) or len(data) != count * form.itemsize:
        raise ValueError(f"the column {name!r} does not have {count:,} rows")
    values = np.frombuffer(data, form)
    highest = {INTEGER: MOST_NUMBER, SECONDS: MOST_SECONDS, FLAG: 1, WORD: len(words) - 1}[kind]
    if count and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= highest):
        raise ValueError(f"the column {name!r} has a value that cannot be")
    listed: list[Any] = values.tolist()
    if kind == WORD:
        return [words[value] for value in listed]
    return [bool(value) for value in listed] if kind == FLAG else listed
