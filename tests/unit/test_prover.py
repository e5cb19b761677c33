"""What the prover refuses: small algorithms written by hand, each with one thing wrong, and the words it has for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from collcomm.collectives import THROUGH_WINDOWS, Schedule, Span, Step, generate
from collcomm.collectives.prover import ProofError, prove, rendezvous
from collcomm.collectives.schedule import chunk, copy, recv, recv_reduce, send

IN, OUT, TMP = chunk("in", 0), chunk("out", 0), chunk("tmp", 0)
ONE = {"in": 1, "out": 1, "tmp": 1}
TWO = {"in": 2, "out": 2, "tmp": 2}


def algorithm(
    kind: str, steps: dict[int, list[Step]], chunks: dict[str, int] = ONE, in_place: bool = False
) -> Callable[[int], Schedule]:
    """An algorithm for as many ranks as ``steps`` has entries."""
    n = len(steps)
    return lambda rank: Schedule(kind, "by hand", n, rank, chunks, tuple(steps[rank]), in_place)


def exchange(in_place: bool = False) -> dict[int, list[Step]]:
    """A right all_reduce of two ranks, to be spoilt."""
    return {0: [send(1, IN), recv_reduce(1, OUT, IN)], 1: [send(0, IN), recv_reduce(0, OUT, IN, received_first=True)]}


def test_a_right_algorithm_passes() -> None:
    prove(algorithm("all_reduce", exchange()), 2)
    prove(algorithm("all_reduce", exchange(), in_place=True), 2, in_place=True)


WRONG = {
    "the result stays empty": (
        "all_reduce",
        {0: [send(1, IN), recv_reduce(1, OUT, IN)], 1: [send(0, IN), recv(0, TMP)]},
        r"rank 1: out\[0\] is wrong: undefined",
    ),
    "an input is missing": (
        "all_reduce",
        {0: [send(1, IN), recv_reduce(1, OUT, IN)], 1: [send(0, IN), recv(0, OUT)]},
        r"rank 1: out\[0\] is wrong: piece 0 of 1, not piece 0 of 11",
    ),
    "an input is added twice": (
        "all_reduce",
        {
            0: [send(1, IN), recv_reduce(1, OUT, IN), send(1, OUT)],
            1: [send(0, IN), recv_reduce(0, OUT, IN), recv_reduce(0, OUT, OUT)],
        },
        r"rank 1, step 2 .*holds an input twice",
    ),
    "operands in different orders": (
        "all_reduce",
        {0: [send(1, IN), recv_reduce(1, OUT, IN)], 1: [send(0, IN), recv_reduce(0, OUT, IN)]},
        r"ranks 0 and 1 add up out\[0\] in different orders",
    ),
    "the input is written": (
        "all_reduce",
        {0: [send(1, IN), recv_reduce(1, IN, IN), copy(OUT, IN)], 1: exchange()[1]},
        r"rank 0, step 1 .*the input is written",
    ),
    "scratch is read before it is written": (
        "all_reduce",
        {0: [send(1, TMP), recv_reduce(1, OUT, IN)], 1: exchange()[1]},
        r"rank 0, step 0 .*tmp\[0\] is read before anything was written there",
    ),
    "everybody waits first": (
        "all_reduce",
        {0: exchange()[0][::-1], 1: exchange()[1][::-1]},
        r"deadlock: rank 0 waits for ever in step 0",
    ),
    "a message too many": (
        "all_reduce",
        {0: [*exchange()[0], send(1, IN)], 1: exchange()[1]},
        r"nobody receives.*\(0, 1\): 1",
    ),
    "a message too few": (
        "all_reduce",
        {0: [*exchange()[0], recv(1, TMP)], 1: exchange()[1]},
        r"deadlock: rank 0 waits for ever in step 2: recv tmp\[0\] <- 1",
    ),
    "a message to a rank that does not exist": (
        "all_reduce",
        {0: [*exchange()[0], send(7, IN)], 1: exchange()[1]},
        r"rank 0, step 2 .*there is no such link",
    ),
    "a chunk that the buffer does not have": (
        "all_reduce",
        {0: [send(1, chunk("in", 1)), recv_reduce(1, OUT, IN)], 1: exchange()[1]},
        r"rank 0, step 0 .*in\[1\] is outside of the 1 chunks",
    ),
    "a chunk before the first": (
        "all_reduce",
        {0: [send(1, Span("in", -1, 0)), recv_reduce(1, OUT, IN)], 1: exchange()[1]},
        r"rank 0, step 0 .*outside of the 1 chunks",
    ),
    "a buffer that there is not": (
        "all_reduce",
        {0: [copy(chunk("heap", 0), IN), *exchange()[0]], 1: exchange()[1]},
        r"rank 0, step 0 .*outside of the 0 chunks",
    ),
    "an empty span": (
        "all_reduce",
        {0: [send(1, Span("in", 0, 0)), recv_reduce(1, OUT, IN)], 1: exchange()[1]},
        r"rank 0, step 0 .*in\[0:0\] is outside",
    ),
    "a step without a span": (
        "all_reduce",
        {0: [recv_reduce(1, OUT, None), send(1, IN)], 1: exchange()[1]},  # type: ignore[arg-type]
        r"rank 0, step 0 .*a span is missing",
    ),
    "the wrong root's data": (
        "broadcast",
        {0: [recv(1, OUT)], 1: [send(0, OUT)]},
        r"rank 1, step 0 .*out\[0\] is read before",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_text_says_where_and_what(name: str) -> None:
    kind, steps, words = WRONG[name]
    with pytest.raises(ProofError, match=words):
        prove(algorithm(kind, steps), len(steps))


BOTH = Span("in", 0, 2)
WRONG_OF_TWO_CHUNKS = {
    "chunks change places under way": (
        "broadcast",
        {
            0: [send(1, chunk("out", 0)), send(1, chunk("out", 1))],
            1: [recv(0, chunk("out", 1)), recv(0, chunk("out", 0))],
        },
        r"rank 1, step 0 .*another size",
    ),
    "two chunks are sent where one is awaited": (
        "broadcast",
        {0: [send(1, Span("out", 0, 2))], 1: [recv(0, chunk("out", 0)), recv(0, chunk("out", 1))]},
        r"rank 1, step 0 .*2 chunks do not fit into out\[0\]",
    ),
    "two chunks are sent where one is to be added": (
        "all_reduce",
        {0: [send(1, BOTH)], 1: [recv_reduce(0, OUT, IN)]},
        r"rank 1, step 0 .*2 chunks arrive, 1 are to be added",
    ),
    "different pieces are added": (
        "all_reduce",
        {0: [send(1, chunk("in", 1))], 1: [recv_reduce(0, OUT, IN)]},
        r"rank 1, step 0 .*pieces \d and \d are added to each other",
    ),
    "a block goes to the wrong owner": (
        "all_to_all",
        {
            0: [copy(chunk("out", 0), chunk("in", 0)), send(1, chunk("in", 0)), recv(1, chunk("out", 1))],
            1: [copy(chunk("out", 1), chunk("in", 1)), send(0, chunk("in", 0)), recv(0, chunk("out", 0))],
        },
        r"rank 1: out\[0\] is wrong",
    ),
}


@pytest.mark.parametrize("name", WRONG_OF_TWO_CHUNKS)
def test_chunks_keep_their_identity(name: str) -> None:
    kind, steps, words = WRONG_OF_TWO_CHUNKS[name]
    with pytest.raises(ProofError, match=words):
        prove(algorithm(kind, steps, TWO), len(steps))


def test_in_place_a_piece_must_leave_before_it_is_overwritten() -> None:
    late = {
        0: [recv_reduce(1, OUT, IN), send(1, IN)],  # right as long as "in" is other memory than "out"
        1: [send(0, IN), recv_reduce(0, OUT, IN, received_first=True)],
    }
    prove(algorithm("all_reduce", late, in_place=True), 2)
    with pytest.raises(ProofError, match=r"rank 1, step 1 .*holds an input twice"):
        prove(algorithm("all_reduce", late, in_place=True), 2, in_place=True)


def test_in_place_must_be_claimed_by_all() -> None:
    def half(rank: int) -> Schedule:
        return algorithm("all_reduce", exchange(), in_place=rank == 0)(rank)

    with pytest.raises(ProofError, match="does not claim to work in place"):
        prove(half, 2, in_place=True)


def test_ranks_must_run_the_same_kind() -> None:
    def mixed(rank: int) -> Schedule:
        return algorithm("reduce" if rank else "all_reduce", exchange())(rank)

    with pytest.raises(ProofError, match=r"different kinds: \['all_reduce', 'reduce'\]"):
        prove(mixed, 2)


ADDS_TO_THE_LEFT = {
    0: [send(1, IN), recv_reduce(1, TMP, IN), send(2, TMP), recv_reduce(2, OUT, TMP)],
    1: [send(0, IN), recv_reduce(0, TMP, IN, received_first=True), recv_reduce(2, OUT, TMP)],
    2: [send(0, IN), send(1, IN), recv_reduce(0, OUT, IN, received_first=True)],
}
RANK_2_ADDS_TO_THE_RIGHT = {
    0: [send(1, IN), send(2, IN), recv_reduce(1, TMP, IN), recv_reduce(2, OUT, TMP)],
    1: [send(0, IN), send(2, IN), recv_reduce(0, TMP, IN, received_first=True), recv_reduce(2, OUT, TMP)],
    2: [
        send(0, IN),
        send(1, IN),
        recv_reduce(1, TMP, IN, received_first=True),
        recv_reduce(0, OUT, TMP, received_first=True),
    ],
}


def test_the_same_sum_with_other_brackets_is_another_sum() -> None:
    """(a + b) + c everywhere is right; a + (b + c) at one rank is not: floating point tells them apart."""
    prove(algorithm("all_reduce", ADDS_TO_THE_LEFT), 3)
    with pytest.raises(ProofError, match=r"ranks 0 and 2 add up out\[0\] in different orders"):
        prove(algorithm("all_reduce", RANK_2_ADDS_TO_THE_RIGHT), 3)


@pytest.mark.parametrize(("kind", "name"), sorted(THROUGH_WINDOWS))
def test_every_signal_stays_in_the_group_and_goes_to_somebody_else(kind: str, name: str) -> None:
    """Also for those numbers of ranks for which `test_schedules` does not prove windows; of messages it proves this for all."""
    for n in range(1, 65):
        for rank in range(n):
            for step in generate(kind, name, n, rank).steps:
                assert step.peer == -1 or (0 <= step.peer < n and step.peer != rank), (n, rank, step)


# ---- what the table of buffers demands ----------------------------------------------------------------------------


def refused(kind: str, chunks: dict[str, int], *steps: list[Step]) -> None:
    n = len(steps)
    with pytest.raises(ProofError):
        prove(lambda rank: Schedule(kind, "by hand", n, rank, chunks, tuple(steps[rank])), n)


def test_a_result_of_no_chunks_is_no_result() -> None:
    refused("all_reduce", {"in": 1, "out": 0}, [], [])


def test_an_all_gather_of_one_block_is_none() -> None:
    refused("all_gather", {"in": 1, "out": 1}, [copy(OUT, IN), send(1, IN)], [recv(0, OUT)])


def test_a_result_without_a_buffer_is_refused_in_words() -> None:
    refused("all_reduce", {"in": 1}, [], [])


def test_nobody_sends_to_himself() -> None:
    refused("all_reduce", {"in": 1, "out": 1}, [send(0, IN), recv(0, OUT)])


def test_a_piece_is_not_parked_in_a_chunk_of_another_size() -> None:
    root = [copy(OUT, IN), send(1, chunk("in", 1))]
    refused("scatter", {"in": 2, "out": 1, "tmp": 2}, root, [recv(0, chunk("tmp", 0)), copy(OUT, chunk("tmp", 0))])


# ---- without room between the ranks -----------------------------------------------------------------------------


def test_an_exchange_over_its_own_source_needs_no_room_between_the_ranks() -> None:
    """What is to be reduced is taken before its turn."""

    def over(peer: int) -> list[Step]:
        return [copy(OUT, IN), send(peer, OUT), recv_reduce(peer, OUT, OUT, received_first=peer == 0)]

    steps = [over(1), over(0)]
    prove(lambda rank: Schedule("all_reduce", "by hand", 2, rank, {"in": 1, "out": 1}, tuple(steps[rank])), 2)


def test_who_reads_only_after_its_own_send_has_left_is_found() -> None:
    def swap(peer: int) -> list[Step]:
        mine, theirs = chunk("in", 1 - peer), chunk("tmp", peer)
        own = chunk("tmp", 1 - peer)
        return [copy(own, mine), send(peer, own), recv(peer, own), copy(theirs, own)]

    steps = [swap(1), swap(0)]
    schedules = [Schedule("swap", "by hand", 2, rank, {"in": 2, "tmp": 2}, tuple(steps[rank])) for rank in range(2)]
    with pytest.raises(ProofError, match="without room"):
        rendezvous(schedules, in_place=False)
