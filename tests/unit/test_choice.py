"""The planner's choice: what it takes by default, and that its closed forms say what the schedules do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import pytest
from collcomm.planner import LOOPBACK, Choice, Links, choose
from collcomm.planner.choice import COSTS, MAX_SEGMENTS, SEGMENT_BYTES
from hypothesis import given, settings
from hypothesis import strategies as st

from collcomm.collectives import BY_MESSAGES, Action, Schedule, Span, generate
from collcomm.collectives.prover import prove

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
LAN = Links(latency=1e-4, bandwidth=1.2e9)
WAN = Links(latency=0.05, bandwidth=6e6)
SIZES = (0, 1, 64, 4 * KB, 64 * KB, 256 * KB, MB, 16 * MB, GB)
RANKS = (1, 2, 3, 4, 5, 8, 13, 32, 64)
LINKS = {"loopback": LOOPBACK, "lan": LAN, "wan": WAN}


@pytest.mark.parametrize(
    ("kind", "n", "nbytes", "algorithm"),
    [
        ("all_reduce", 2, 64 * KB, "doubling"),
        ("all_reduce", 4, 4 * KB, "doubling"),
        ("all_reduce", 16, 64 * KB, "doubling"),
        ("all_reduce", 6, 28 * KB, "doubling"),
        ("all_reduce", 7, 40 * KB, "doubling"),
        ("all_reduce", 3, 64, "star"),
        ("all_reduce", 4, MB, "ring"),
        ("all_reduce", 5, 64 * KB, "ring"),
        ("all_reduce", 64, 16 * MB, "ring"),
        ("reduce_scatter", 8, 4 * KB, "direct"),
        ("reduce_scatter", 8, 64 * MB, "ring"),
        ("all_gather", 8, 4 * KB, "doubling"),
        ("all_gather", 8, 64 * MB, "ring"),
        ("all_to_all", 8, 64, "direct"),
        ("all_to_all", 8, GB, "direct"),
        ("broadcast", 8, 64, "tree"),
        ("broadcast", 8, 16 * MB, "ring"),
        ("reduce", 8, MB, "tree"),
        ("gather", 4, MB, "star"),
        ("scatter", 4, MB, "star"),
        ("gather", 64, 64, "tree"),
        ("scatter", 64, 64, "tree"),
    ],
)
def test_defaults(kind: str, n: int, nbytes: int, algorithm: str) -> None:
    assert choose(kind, n, nbytes).algorithm == algorithm


def test_slow_links_move_the_border_to_larger_messages() -> None:
    assert choose("all_reduce", 8, 256 * KB, LOOPBACK).algorithm == "ring"
    assert choose("all_reduce", 8, 256 * KB, LAN).algorithm == "doubling"


def test_every_kind_has_costs_and_every_cost_an_algorithm() -> None:
    assert set(COSTS) == {kind for kind, _ in BY_MESSAGES}
    assert {(kind, name) for kind, costs in COSTS.items() for name in costs} <= set(BY_MESSAGES)


def test_two_ranks_have_no_chain_to_fill() -> None:
    assert choose("broadcast", 2, GB).algorithm == "tree"


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError, match="all_shuffle"):
        choose("all_shuffle", 4, 100)


links = st.builds(
    Links,
    latency=st.floats(1e-7, 1.0),
    bandwidth=st.floats(1e3, 1e11),
    compute=st.floats(1e8, 1e11),
)


@settings(deadline=None)
@given(st.sampled_from(sorted(COSTS)), st.integers(1, 10_000), st.integers(0, 1 << 44), links)
def test_the_choice_is_the_cheapest_and_always_the_same(kind: str, n: int, nbytes: int, over: Links) -> None:
    picked = choose(kind, n, nbytes, over)
    assert picked == choose(kind, n, nbytes, over)
    costs = {name: cost(n, nbytes, over) for name, cost in COSTS[kind].items()}
    assert picked.seconds == costs[picked.algorithm] == min(costs.values())
    assert picked.seconds >= 0


@settings(deadline=None)
@given(st.sampled_from(sorted(COSTS)), st.integers(1, 1000), st.integers(0, 1 << 40), st.integers(0, 1 << 40), links)
def test_more_bytes_never_take_less_time(kind: str, n: int, some: int, more: int, over: Links) -> None:
    assert choose(kind, n, some, over).seconds <= choose(kind, n, some + more, over).seconds


@pytest.mark.parametrize("kind", ["all_reduce", "broadcast"])
def test_segments_stay_in_cache_until_there_are_too_many(kind: str) -> None:
    for n in (4, 5, 16):
        for nbytes in (16 * MB, 16 * MB + 1, 100 * MB - 1, GB, 1 << 45):
            picked = choose(kind, n, nbytes)
            assert picked.algorithm == "ring"
            segments = picked.parameters["segments"]
            piece = nbytes / segments / (n if kind == "all_reduce" else 1)
            assert 1 <= segments <= MAX_SEGMENTS
            assert piece <= SEGMENT_BYTES or segments == MAX_SEGMENTS
            assert segments == 1 or piece * segments / (segments - 1) > SEGMENT_BYTES, "one fewer would have done"


@pytest.mark.parametrize("kind", sorted(COSTS))
def test_what_is_chosen_is_proved_as_it_is_chosen(kind: str) -> None:
    seen: set[tuple[int, str]] = set()
    for n in (1, 2, 3, 4, 5, 8):
        for nbytes in (0, 64, 64 * KB, 4 * MB):
            picked = choose(kind, n, nbytes)
            if (key := (n, repr(picked.algorithm) + repr(picked.parameters))) not in seen:
                seen.add(key)
                prove(lambda rank: generate(kind, picked.algorithm, n, rank, 0, **picked.parameters), n)
    assert seen


# -- closed forms against the schedules ------------------------------------------------------------------------------

MESSAGE_SECONDS = 5e-6  # a system call at either end


def size(schedule: Schedule, span: Span | None, nbytes: int) -> float:
    count = span.last - span.first if span else 0
    even = schedule.kind in ("all_reduce", "broadcast", "reduce")
    return nbytes * count / (max(schedule.chunks.values()) if even else schedule.n)


def simulate(schedules: Sequence[Schedule], nbytes: int, over: Links) -> float:
    """Seconds until the last rank is done, steps in list order. A rank sends one message at a time, and receives one."""
    n = len(schedules)
    clock, sending, receiving, at = [0.0] * n, [0.0] * n, [0.0] * n, [0] * n
    channels: dict[tuple[int, int], deque[tuple[float, float]]] = {}
    moved = True
    while moved:
        moved = False
        for rank, schedule in enumerate(schedules):
            for step in schedule.steps[at[rank] :]:
                if step.action is Action.SEND:
                    seconds = size(schedule, step.source, nbytes) / over.bandwidth
                    clock[rank] += MESSAGE_SECONDS
                    sending[rank] = max(clock[rank], sending[rank]) + seconds
                    first_byte = sending[rank] - seconds + over.latency
                    channels.setdefault((rank, step.peer), deque()).append((first_byte, seconds))
                elif step.action is not Action.COPY:
                    queue = channels.get((step.peer, rank))
                    if not queue:
                        break
                    first_byte, seconds = queue.popleft()
                    receiving[rank] = max(first_byte, receiving[rank]) + seconds
                    clock[rank] = max(clock[rank], receiving[rank]) + MESSAGE_SECONDS
                    if step.action is Action.RECV_REDUCE:
                        clock[rank] += size(schedule, step.source, nbytes) / over.compute
                at[rank] += 1
                moved = True
    assert all(at[rank] == len(schedule.steps) for rank, schedule in enumerate(schedules))
    return max(clock + sending)


def simulated(kind: str, picked: Choice, n: int, nbytes: int, over: Links) -> float:
    schedules = [generate(kind, picked.algorithm, n, rank, 0, **picked.parameters) for rank in range(n)]
    return simulate(schedules, nbytes, over)


def cases() -> Iterator[tuple[int, int]]:
    yield from ((n, nbytes) for n in RANKS[1:-1] for nbytes in SIZES[2:-1])


@pytest.mark.parametrize("where", LINKS)
@pytest.mark.parametrize("kind", sorted(COSTS))
def test_closed_forms_are_within_four_times_of_the_simulation(kind: str, where: str) -> None:
    for n, nbytes in cases():
        picked = choose(kind, n, nbytes, LINKS[where])
        seconds = simulated(kind, picked, n, nbytes, LINKS[where])
        assert picked.seconds / 4 < seconds < picked.seconds * 4, (n, nbytes, picked, seconds)


@pytest.mark.parametrize("where", LINKS)
@pytest.mark.parametrize("kind", sorted(COSTS))
def test_nothing_that_could_be_chosen_is_three_times_as_fast(kind: str, where: str) -> None:
    for n, nbytes in cases():
        picked = choose(kind, n, nbytes, LINKS[where])
        taken = simulated(kind, picked, n, nbytes, LINKS[where])
        for name in COSTS[kind]:
            other = simulated(kind, Choice(name), n, nbytes, LINKS[where])
            assert taken < 3 * other, (n, nbytes, picked, name, taken, other)
