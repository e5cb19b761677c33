"""What members propose for an all_reduce with a codec: which of the allowed ones, and in how many pieces.

Each goes by what it knows of the links; a byte holds a proposal, and all take the greatest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .codecs import Codec

CODEC_RATE = 1e9  # bytes of float32 per second that a member encodes and decodes, roughly
EXCHANGE_SECONDS = 3e-4  # what an operation takes at least
MOST_PIECES = 16
MOST_ALLOWED = 15
AUTO = (None, "int8")  # what "auto" allows
Seconds = Callable[[str, int], float]  # what a collective of so many bytes takes, as the planner has it


def pieces_for(nbytes: int, exchange_seconds: float) -> int:
    """Into how many pieces ``nbytes`` of float32 go: more of them hide more of the codec's time, and cost two operations each."""
    options = [1 << power for power in range(MOST_PIECES.bit_length())]
    return min(options, key=lambda pieces: nbytes / CODEC_RATE / pieces + 2 * pieces * exchange_seconds)


def predicted(codec: Codec | None, count: int, size: int, seconds: Seconds) -> float:
    """Seconds of an all_reduce of ``count`` numbers among ``size`` members, plain or with a codec of which nothing is hidden."""
    if codec is None:
        return seconds("all_reduce", 4 * count)
    encoded = size * codec.encoded_bytes(-(-count // size))
    return seconds("all_to_all", encoded) + seconds("all_gather", encoded) + 4 * count / CODEC_RATE + EXCHANGE_SECONDS


def propose(allowed: Sequence[Codec | None], count: int, hosts: Sequence[int], seconds: Seconds) -> int:
    """The proposal of a member that knows the links by ``seconds``; ``hosts``: the host of each member, by number. Within one
    host there is no wait to be hidden: the members' cores are what all goes through, and one piece is best."""
    size = len(hosts)
    choice = 0
    if len(allowed) > 1:
        choice = min(range(len(allowed)), key=lambda index: predicted(allowed[index], count, size, seconds))
    pieces = 1
    if len(set(hosts)) > 1:
        pieces = pieces_for(4 * count, max(EXCHANGE_SECONDS, seconds("all_to_all", 8 * size)))
    return choice << 4 | pieces.bit_length() - 1


def agreed(proposal: int) -> tuple[int, int]:
    """Which of the allowed codecs, and how many pieces."""
    return proposal >> 4, 1 << (proposal & 15)
