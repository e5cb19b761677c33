"""Tokens to their experts, and results back: each an all_to_all with counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..communicator import Communicator
from ..planner.experts import TokenExchange
from .plans import require_plan, require_view

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Arrived:
    """What this rank is to compute. ``tokens``: expert -> rows, ascending by expert, those of lower ranks first."""

    tokens: dict[int, Array]
    exchange: TokenExchange

    @property
    def rows(self) -> int:
        return sum(len(rows) for rows in self.tokens.values())


def exchange_tokens(
    comm: Communicator, tokens: Array, exchange: TokenExchange, timeout: float | None = None
) -> Arrived:
    """Send this rank's ``tokens`` to where their experts are computed. Every member calls it, with the same ``exchange``.

    :param tokens: rows of any shape, by expert: those of expert 0 first, as many as the exchange's counts say.
    :raises ViewChanged: see `plans`.
    """
    require_plan(comm, exchange.dispatch.epoch, exchange.dispatch.devices, "exchange_tokens")
    rank, epoch = comm.rank, comm.view.epoch
    rows = np.asarray(tokens)
    expected = sum(exchange.counts[rank])
    if not rows.ndim or len(rows) != expected:
        raise ValueError(
            f"exchange_tokens: expected {expected} tokens of rank {rank}, by expert, not shape {rows.shape}"
        )
    order = _sent_order(exchange, rank)
    sends, receives = exchange.matrix[rank], [row[rank] for row in exchange.matrix]
    got = comm.all_to_all(rows[order], send_counts=sends, recv_counts=receives, timeout=timeout)
    require_view(comm, epoch, "exchange_tokens")
    parts: dict[int, list[Array]] = {}
    at = 0
    for piece in exchange.received(rank):
        parts.setdefault(piece.expert, []).append(got[at : at + piece.tokens])
        at += piece.tokens
    grouped = {
        expert: found[0] if len(found) == 1 else np.concatenate(found) for expert, found in sorted(parts.items())
    }
    return Arrived(grouped, exchange)


def return_tokens(
    comm: Communicator,
    results: Mapping[int, Array],
    exchange: TokenExchange,
    width: tuple[int, ...],
    dtype: npt.DTypeLike = np.float32,
    timeout: float | None = None,
) -> Array:
    """Send results back to the ranks whose tokens they are of; returns those of this rank's tokens, in the tokens' order.

    :param results: expert -> rows, in the order of `Arrived.tokens`.
    :param width: shape of a row, and its ``dtype``: also where this rank has computed nothing.
    :raises ViewChanged: see `plans`.
    """
    require_plan(comm, exchange.dispatch.epoch, exchange.dispatch.devices, "return_tokens")
    rank, epoch = comm.rank, comm.view.epoch
    pieces = exchange.received(rank)
    given = np.empty((sum(piece.tokens for piece in pieces), *width), dtype)
    used: dict[int, int] = {}
    at = 0
    for piece in pieces:
        first = used.get(piece.expert, 0)
        used[piece.expert] = first + piece.tokens
        rows = results[piece.expert][first : first + piece.tokens] if piece.expert in results else ()
        if len(rows) != piece.tokens or rows.shape[1:] != tuple(width):  # type: ignore[union-attr]
            raise ValueError(
                f"return_tokens: expert {piece.expert} needs rows of shape {tuple(width)}, one for each token"
            )
        given[at : at + piece.tokens] = rows
        at += piece.tokens
    sends, receives = [row[rank] for row in exchange.matrix], exchange.matrix[rank]
    got = comm.all_to_all(given, send_counts=sends, recv_counts=receives, timeout=timeout)
    require_view(comm, epoch, "return_tokens")
    back = np.empty_like(got)
    back[_sent_order(exchange, rank)] = got
    return back


def _sent_order(exchange: TokenExchange, rank: int) -> Array:
    """Rows of the rank's tokens in the order in which they are sent."""
    pieces = exchange.sent(rank)
    if not pieces:
        return np.empty(0, np.int64)
    return np.concatenate([np.arange(piece.start, piece.start + piece.tokens) for piece in pieces])
