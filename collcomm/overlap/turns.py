"""Whose turn it is: large reductions are cut into chunks, and between two of them the most urgent one goes first (ByteScheduler:
Peng et al., 2019; P3: Jayarajan et al., 2019). A pure state machine, which members keep in step.

What is to be reduced has a number, in the order in which it was submitted, which is the same at all members. They submit at
different times, and may want something cancelled at any; so before each chunk all tell some words of which all learn the largest:

    -submitted     how many numbers are known here; of the largest, all know so many
    -cancelled     the lowest number that is to be cancelled, `NOTHING` if none is
    pace           picoseconds per byte of the last chunk, 0 when there was none
    exchange       nanoseconds that these words took, the best of some times: in others, somebody was late

Why all choose the same chunk. A choice is made from the words that were agreed upon, and of numbers that all members have
submitted, for each of which all know the same length and urgency, by a rule that uses nothing else; what has been handed out, and
what was cancelled, follows from earlier choices. So by induction over the choices all members make the same ones. That a number
was cancelled counts from the words in which all hear of it, and only once all have that number: until then, whoever wants it says
so again. When nothing can be handed out, all stop at the same words, and whoever has submitted something that is not done begins
again, and waits for the others at the first words.

How large a chunk is follows from the pace that was agreed upon, so that it lasts for about ``seconds``, which is for how long
something urgent has to wait, twice, since words are exchanged while the chunk before is on its way; or for `EXCHANGES` times as
long as the words take, so that they cost little where distances are long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

LEAST_BYTES, FIRST_BYTES, MOST_BYTES = 64 << 10, 1 << 20, 64 << 20
EXCHANGES = 8.0
REMEMBERED = 8  # exchanges
MOST_ITEMS = 65536  # submitted, and not done
NOTHING = -(1 << 62)
WORDS = 4
_FAR = 1 << 62


class Chunk(NamedTuple):
    """Elements ``start`` to ``stop`` of what has that number; with the ``last`` one, all of it has been handed out."""

    number: int
    start: int
    stop: int
    last: bool


@dataclass
class _Item:
    elements: int
    itemsize: int
    priority: int
    taken: int = 0
    unwanted: bool = False


class Turns:
    """``seconds``: about how long a chunk should take."""

    def __init__(self, seconds: float):
        self.submitted = 0
        self.nbytes = FIRST_BYTES  # of the next chunk, at most
        self._seconds = seconds
        self._items: dict[int, _Item] = {}
        self._pace = 0
        self._exchanges: deque[int] = deque(maxlen=REMEMBERED)

    def submit(self, elements: int, itemsize: int, priority: int) -> int:
        """Its number. ``priority``: the lower goes first, of equals the earlier one. Raises OverflowError when too much is
        pending."""
        if len(self._items) >= MOST_ITEMS:
            raise OverflowError(f"{MOST_ITEMS} reductions are pending: wait for some")
        number, self.submitted = self.submitted, self.submitted + 1
        self._items[number] = _Item(elements, itemsize, priority)
        return number

    def cancel(self, number: int) -> None:
        """If it has not been handed out as a whole before all hear of that."""
        item = self._items.get(number)
        if item is not None:
            item.unwanted = True

    @property
    def pending(self) -> bool:
        """Whether something that was submitted here has not been handed out as a whole, nor cancelled."""
        return bool(self._items)

    def took(self, chunk: float = 0.0, nbytes: int = 0, exchange: float = 0.0) -> None:
        """Seconds, as seen here, of a chunk of so many bytes, and of the exchange of words."""
        if chunk and nbytes >= LEAST_BYTES:
            self._pace = max(1, int(min(chunk * 1e12 / nbytes, _FAR)))
        if exchange:
            self._exchanges.append(int(min(exchange * 1e9, _FAR)))

    def words(self) -> list[int]:
        """What this member has to say."""
        unwanted = min((number for number, item in self._items.items() if item.unwanted), default=-NOTHING)
        return [-self.submitted, -unwanted, self._pace, min(self._exchanges, default=0)]

    def agreed(self, words: list[int]) -> tuple[Chunk | None, int | None]:
        """The chunk that is next, if any, and the number that is cancelled from now on, if one is. ``words``: the largest of
        what members said, word by word."""
        known = -words[0]
        cancelled = None
        if words[1] != NOTHING and -words[1] < known:
            cancelled = -words[1]
            if self._items.pop(cancelled, None) is None:
                cancelled = None  # it has been handed out meanwhile
        if words[2]:
            lasts = max(self._seconds, EXCHANGES * words[3] / 1e9)
            self.nbytes = max(LEAST_BYTES, min(MOST_BYTES, _power_of_two(int(lasts * 1e12) // words[2])))
        return self._next(known), cancelled

    def _next(self, known: int) -> Chunk | None:
        found = min(((item.priority, number) for number, item in self._items.items() if number < known), default=None)
        if found is None:
            return None
        _, number = found
        item = self._items[number]
        start = item.taken
        stop = item.taken = min(item.elements, start + max(1, self.nbytes // item.itemsize))
        if stop == item.elements:
            del self._items[number]
        return Chunk(number, start, stop, stop == item.elements)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)
