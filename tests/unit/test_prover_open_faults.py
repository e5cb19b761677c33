"""Wrong algorithms that the prover lets pass. Each test fails until the prover says ProofError; then its mark goes."""

from __future__ import annotations

import pytest

from collcomm.collectives import Schedule, Step
from collcomm.collectives.prover import ProofError, prove
from collcomm.collectives.schedule import chunk, copy, recv, recv_reduce, send

IN, OUT = chunk("in", 0), chunk("out", 0)


def refused(kind: str, chunks: dict[str, int], *steps: list[Step]) -> None:
    n = len(steps)
    with pytest.raises(ProofError):
        prove(lambda rank: Schedule(kind, "by hand", n, rank, chunks, tuple(steps[rank])), n)


@pytest.mark.xfail(strict=True, reason="as many chunks are checked as the schedule says that there are")
def test_a_result_of_no_chunks_is_no_result() -> None:
    refused("all_reduce", {"in": 1, "out": 0}, [], [])


@pytest.mark.xfail(strict=True, reason="as many chunks are checked as the schedule says that there are")
def test_an_all_gather_of_one_block_is_none() -> None:
    refused("all_gather", {"in": 1, "out": 1}, [copy(OUT, IN), send(1, IN)], [recv(0, OUT)])


@pytest.mark.xfail(strict=True, raises=KeyError, reason="the buffer is looked up without asking whether it is there")
def test_a_result_without_a_buffer_is_refused_in_words() -> None:
    refused("all_reduce", {"in": 1}, [], [])


@pytest.mark.xfail(
    strict=True, reason="a rank that sends to itself finds its own message; no transport has such a link"
)
def test_nobody_sends_to_himself() -> None:
    refused("all_reduce", {"in": 1, "out": 1}, [send(0, IN), recv(0, OUT)])


@pytest.mark.xfail(
    strict=True, reason="scratch chunks are taken to be of any size; with uneven counts this overruns one"
)
def test_a_piece_is_not_parked_in_a_chunk_of_another_size() -> None:
    root = [copy(OUT, IN), send(1, chunk("in", 1))]
    refused("scatter", {"in": 2, "out": 1, "tmp": 2}, root, [recv(0, chunk("tmp", 0)), copy(OUT, chunk("tmp", 0))])


@pytest.mark.xfail(strict=True, reason="sends are eager, also where the streaming executor waits for the receiver")
def test_an_exchange_over_its_own_source_needs_room_between_the_ranks() -> None:
    def over(peer: int) -> list[Step]:
        return [copy(OUT, IN), send(peer, OUT), recv_reduce(peer, OUT, OUT, received_first=peer == 0)]

    refused("all_reduce", {"in": 1, "out": 1}, over(1), over(0))
