"""One form for each layout, however it was built.

What a layout stands for is the list o of its N byte offsets. The form is a function of this list alone:

(a) No byte: empty. One run of bytes: `Run`.
(b) Else, with the smallest p < N that divides N such that o[i + p] - o[i] is the same for all i: `Repeat` of the form of the
first p. A run is the case p = 1 with distance 1, written shorter.
(c) Else the list is cut, at ends of runs only, into as few pieces as possible that are strided boxes of equal runs: `Several`.

Nested strides need no list. Let T be in this form, and repeated n >= 2 times at distance s. Write down the differences of
neighbours in T, and behind them the difference from T's last byte to the first of the next T: a word w; the whole is w^n
less its last letter. The smallest p of (b) is the length of the primitive root of w^n, which is that of w. It is shorter than w
only if w is a power u^q, that is if T is itself a repetition, q times at distance s' with q * s' = s: then both melt into one
of n * q. (That T's own smallest period is |u| follows from Fine and Wilf: T has both periods, each at most half of its length.)
Otherwise the form is a repetition of T as it is. So `repeat` is exact, and costs nothing. It also folds dense dimensions and
flattens nested ones, keeps offsets where a dimension of one is dropped, and keeps the packed order, as TEMPI's passes do
(Pearson et al. 2021).

Lists are only written down, as runs, where parts of different form come together (`concatenate`): indexed types and structs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from .layout import EMPTY, Layout, Offsets, Repeat, Run, Several, all_runs, check_runs

EXACT_RUNS = (
    512  # up to so many the list of boxes is the shortest there is; beyond, each box is taken as long as it gets
)
_FIRST_LOOK = 16


def repeat(layout: Layout, count: int, stride: int) -> Layout:
    """``count`` times the layout, ``stride`` bytes apart."""
    if count == 0 or not layout.size:
        return EMPTY
    if count == 1:
        return layout
    if isinstance(layout, Run) and stride == layout.size:
        return Run(layout.start, count * layout.size)
    if isinstance(layout, Repeat) and stride == layout.count * layout.stride:
        return Repeat(count * layout.count, layout.stride, layout.body)
    return Repeat(count, stride, layout)


@lru_cache(maxsize=4096)
def layout_of(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Layout:
    """Of an array whose first element is the origin; in C order."""
    layout: Layout = Run(0, itemsize) if itemsize else EMPTY
    for count, stride in zip(reversed(shape), reversed(strides), strict=True):
        layout = repeat(layout, count, stride)
    return layout


def concatenate(layouts: Iterable[Layout]) -> Layout:
    """One after the other. Raises ValueError where that has too many pieces."""
    parts = list[Layout]()
    for layout in layouts:
        if not layout.size:
            continue
        continued = _continued(parts[-1], layout) if parts else None
        if continued is None:
            parts.append(layout)
        else:
            parts[-1] = continued
    if len(parts) <= 1:
        return parts[0] if parts else EMPTY
    return of_runs(*all_runs(Several(tuple(parts))))


def _continued(layout: Layout, more: Layout) -> Layout | None:
    """Both as one, if ``more`` is what comes next when ``layout`` goes on repeating: so that many repetitions can be given in
    parts."""
    if not isinstance(layout, Repeat):
        return None
    times, body = (more.count, more.body) if isinstance(more, Repeat) and more.stride == layout.stride else (1, more)
    if body != layout.body.shifted(layout.count * layout.stride):
        return None
    return Repeat(layout.count + times, layout.stride, layout.body)


def of_runs(starts: Offsets, sizes: Offsets) -> Layout:
    """The layout of these runs of bytes, in this order."""
    there = sizes > 0
    if not there.all():
        starts, sizes = starts[there], sizes[there]
    check_runs(len(starts))
    if len(starts) > 1:
        first = np.concatenate(([True], starts[1:] != starts[:-1] + sizes[:-1]))
        if not first.all():
            starts, sizes = starts[first], np.add.reduceat(sizes, np.flatnonzero(first))
    return _form(starts, sizes)


def _form(starts: Offsets, sizes: Offsets) -> Layout:
    """Of runs of which no two neighbours touch."""
    count = len(starts)
    if count <= 1:
        return Run(int(starts[0]), int(sizes[0])) if count else EMPTY
    for times in _divisors(count, count - 1):
        whole = count % times == 0
        stride = _period(starts, sizes, count // times) if whole else _joined_period(starts, sizes, times)
        if stride is None:
            continue
        if whole:
            body = _form(starts[: count // times], sizes[: count // times])
        else:
            last = (count - 1) // times
            body = _form(starts[: last + 1], np.append(sizes[:last], sizes[-1]))
        return Repeat(times, stride, body)
    return Several(tuple(_cut(starts, sizes)))


def _divisors(*numbers: int) -> list[int]:
    """Those greater than 1 of any of the numbers, the largest first."""
    found = set[int]()
    for number in numbers:
        small = [divisor for divisor in range(1, int(number**0.5) + 1) if number % divisor == 0]
        found.update(small, (number // divisor for divisor in small))
    return sorted(found - {0, 1}, reverse=True)


def _period(starts: Offsets, sizes: Offsets, period: int) -> int | None:
    """The distance at which ``period`` runs repeat to the end, if they do."""
    stride = int(starts[period] - starts[0])
    look = _FIRST_LOOK
    for end in (look, None):  # most are not periodic, which a first look tells
        if np.any(sizes[period:][:end] != sizes[:-period][:end]):
            return None
        if np.any(starts[period:][:end] - starts[:-period][:end] != stride):
            return None
    return stride


def _joined_period(starts: Offsets, sizes: Offsets, times: int) -> int | None:
    """As `_period`, where the last run of each repetition has melted with the first of the next."""
    step = (len(starts) - 1) // times
    joints = starts[::step]  # the start of the first repetition, and that of the last run of each
    stride = int(joints[1] + sizes[-1] - joints[0])
    if np.any(np.diff(joints[1:]) != stride) or np.any(sizes[step:-1:step] != sizes[0] + sizes[-1]):
        return None
    inner_starts = starts[:-1].reshape(times, step)[:, 1:]
    inner_sizes = sizes[:-1].reshape(times, step)[:, 1:]
    if np.any(np.diff(inner_starts, axis=0) != stride) or np.any(inner_sizes != inner_sizes[0]):
        return None
    return stride


# -- cutting what has no period into boxes -----------------------------------------------------------------------------


def _cut(starts: Offsets, sizes: Offsets) -> list[Layout]:
    if len(starts) <= EXACT_RUNS:
        return _fewest(starts, sizes)
    found, position = list[Layout](), 0
    equal = _equal_ahead(starts, sizes)
    while position < len(starts):
        chain = _chain(starts, sizes, position, equal[position])
        found.append(_box(starts, sizes, position, chain))
        position += _length(chain)
    return found


def _fewest(starts: Offsets, sizes: Offsets) -> list[Layout]:
    """By dynamic programming from the end; of several ways the one with the longest first box."""
    count = len(starts)
    boxes = [0] * count + [0]  # that the runs from here on take
    best: list[list[int]] = [[] for _ in range(count)]
    equal = _equal_ahead(starts, sizes)
    for position in reversed(range(count)):
        chain = _chain(starts, sizes, position, equal[position])
        fewest = count + 1
        inner = 1
        for level, times in enumerate(chain or [1]):
            for number in range(times, 0, -1):
                rest = boxes[position + inner * number]
                longer = inner * number > _length(best[position])
                if rest + 1 < fewest or (rest + 1 == fewest and longer):
                    fewest = rest + 1
                    best[position] = [*chain[:level], number]
            inner *= times
        boxes[position] = fewest
    found, position = list[Layout](), 0
    while position < count:
        found.append(_box(starts, sizes, position, best[position]))
        position += _length(best[position])
    return found


def _equal_ahead(starts: Offsets, sizes: Offsets) -> list[int]:
    """For each run, how many from it on are of one size and equally spaced."""
    count = len(starts)
    step, same = np.diff(starts), sizes[1:] == sizes[:-1]
    last = np.arange(count)  # the last run of the row that each belongs to
    last[:-1] += same
    goes_on = np.zeros(count, bool)
    goes_on[: count - 2] = same[:-1] & same[1:] & (step[:-1] == step[1:])
    ends = np.where(goes_on, count, last)
    found: list[int] = (np.minimum.accumulate(ends[::-1])[::-1] - np.arange(count) + 1).tolist()
    return found


def _chain(starts: Offsets, sizes: Offsets, position: int, row: int) -> list[int]:
    """Counts of the largest box that begins with this run, from the innermost dimension outwards. Which counts there can be is
    forced: a dimension that does not melt into the next ends where its distance changes."""
    chain, length = [], 1
    times = row
    while times > 1:
        chain.append(times)
        length *= times
        times = _repetitions(starts, sizes, position, length)
    return chain


def _repetitions(starts: Offsets, sizes: Offsets, position: int, length: int) -> int:
    """How often the next ``length`` runs come in a row at one distance."""
    here = position + length
    if here >= len(starts) or sizes[here] != sizes[position]:
        return 1
    stride = starts[here] - starts[position]
    matched, look = 0, max(_FIRST_LOOK, length)
    while True:
        first = position + matched
        last = min(first + look, len(starts) - length)
        ahead = slice(first + length, last + length)
        equal = (sizes[ahead] == sizes[first:last]) & (starts[ahead] - starts[first:last] == stride)
        if not equal.all():
            return 1 + (matched + int(equal.argmin())) // length
        matched += last - first
        if position + matched + length >= len(starts):
            return 1 + matched // length
        look *= 2


def _length(chain: Sequence[int]) -> int:
    length = 1
    for times in chain:
        length *= times
    return length


def _box(starts: Offsets, sizes: Offsets, position: int, chain: Sequence[int]) -> Layout:
    box: Layout = Run(int(starts[position]), int(sizes[position]))
    length = 1
    for times in chain:
        if times > 1:
            box = Repeat(times, int(starts[position + length] - starts[position]), box)
        length *= times
    return box
