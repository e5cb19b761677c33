"""Which tokens of which rank travel where, under a dispatch: what an all_to_all with counts needs, and what it moves.

A rank's tokens lie one behind the other by expert. Those of an expert are numbered over all ranks, in the order of the ranks; a
share of the dispatch is a range of these numbers. So all ranks find the same exchange from the same counts.

Bytes. Of T tokens, those stay that lie in a share of their own rank: L = sum over experts and devices of the overlap of the
device's shares with the numbers of its own tokens. The others travel to their expert and, as a result, back:

    tokens: 2 * (T - L) * token_bytes        weights: W * weight_bytes, W = the number of copies of the dispatch

A training step sends gradients for both the same ways: twice that, for outputs and inputs of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .llep import Dispatch


class Piece(NamedTuple):
    """``tokens`` tokens of ``expert`` go from ``source``, where they are the rows from ``start``, to ``device``."""

    expert: int
    source: int
    device: int
    start: int
    tokens: int


@dataclass(frozen=True)
class TokenExchange:
    """``counts``: [source][expert], tokens that the source has for the expert. See `exchange`."""

    dispatch: Dispatch
    counts: tuple[tuple[int, ...], ...]

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All that there are, by source, device, expert and row: the order in which a source sends and a device receives."""
        found = []
        starts = [0] * len(self.counts)
        for expert, shares in enumerate(self.dispatch.shares):
            first, at = 0, 0  # number of the source's first token, and of the share that holds it
            for source, row in enumerate(self.counts):
                last = first + row[expert]
                start = starts[source]
                starts[source] += row[expert]
                while first < last:
                    share = shares[at]
                    tokens = min(last, share.stop) - first
                    found.append(Piece(expert, source, share.device, start, tokens))
                    first, start = first + tokens, start + tokens
                    at += first == share.stop
        return tuple(sorted(found, key=lambda piece: (piece.source, piece.device, piece.expert, piece.start)))

    @cached_property
    def matrix(self) -> tuple[tuple[int, ...], ...]:
        """[source][device]: tokens that go from one to the other."""
        rows = [[0] * self.dispatch.devices for _ in self.counts]
        for piece in self.pieces:
            rows[piece.source][piece.device] += piece.tokens
        return tuple(map(tuple, rows))

    def sent(self, rank: int) -> tuple[Piece, ...]:
        """In the order in which they are sent: by device, by expert."""
        return tuple(piece for piece in self.pieces if piece.source == rank)

    def received(self, rank: int) -> tuple[Piece, ...]:
        """In the order in which they arrive: by source, by expert."""
        return tuple(piece for piece in self.pieces if piece.device == rank)

    @property
    def total(self) -> int:
        return sum(map(sum, self.counts))

    @property
    def local(self) -> int:
        """Tokens that are computed where they are."""
        return sum(row[rank] for rank, row in enumerate(self.matrix))

    def token_bytes(self, token: int) -> int:
        """Bytes between ranks of all tokens, there and back, for tokens and results of ``token`` bytes each."""
        return 2 * (self.total - self.local) * token

    def weight_bytes(self, weights: int) -> int:
        """Bytes between ranks of the weights that travel, for experts of ``weights`` bytes each."""
        return len(self.dispatch.copies) * weights


def exchange(dispatch: Dispatch, counts: Sequence[Sequence[int]]) -> TokenExchange:
    """The exchange of ``counts[source][expert]`` tokens; they sum to the loads that ``dispatch`` was made for."""
    rows = tuple(tuple(int(count) for count in row) for row in counts)
    experts = len(dispatch.shares)
    if len(rows) != dispatch.devices or any(len(row) != experts or min(row) < 0 for row in rows):
        raise ValueError(
            f"counts must be of {dispatch.devices} sources with {experts} experts each, and none of them negative"
        )
    for expert, shares in enumerate(dispatch.shares):
        planned, here = sum(share.tokens for share in shares), sum(row[expert] for row in rows)
        if planned != here:
            raise ValueError(
                f"expert {expert} has {here} tokens, the dispatch is for {planned}: make it from these counts"
            )
    return TokenExchange(dispatch, rows)
