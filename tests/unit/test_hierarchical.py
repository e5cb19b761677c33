"""Schedules over hosts: proved for every way to put few ranks on hosts, and each byte crosses between hosts once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import pytest
from collcomm.planner import choose_across

from collcomm.collectives import Action, Hosts, Schedule, generate
from collcomm.collectives.prover import prove

KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast")
SEGMENTED = ("all_reduce", "broadcast")
Layout = tuple[int, ...]


def layouts(n: int) -> Iterator[Layout]:
    """All ways to put ``n`` ranks on hosts."""

    def extend(begun: Layout, hosts: int) -> Iterator[Layout]:
        if len(begun) == n:
            yield begun
            return
        for host in range(hosts + 1):
            yield from extend((*begun, host), max(hosts, host + 1))

    yield from extend((), 0)


def prove_on(kind: str, hosts: Layout, root: int, segments: int) -> None:
    more = {"segments": segments} if kind in SEGMENTED else {}
    for in_place in (False, True)[: 1 + (kind == "all_reduce")]:
        prove(
            lambda rank: generate(kind, "hierarchical", len(hosts), rank, root, hosts=hosts, **more),
            len(hosts),
            root,
            in_place,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_of_few_ranks(kind: str) -> None:
    for n in range(1, 7):
        for hosts in layouts(n):
            for root in range(n) if kind == "broadcast" and n < 5 else (0,):
                prove_on(kind, hosts, root, 1 + sum(hosts) % 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_many_ranks(kind: str) -> None:
    rng = random.Random(kind)
    for n in (7, 12, 16, 31, 64):
        for hosts in (1, 2, 3, 5):
            layout = tuple(rng.randrange(hosts) for _ in range(n))
            prove_on(kind, layout, rng.randrange(n), 1 if n > 16 else 2)
    prove_on(kind, tuple(rank // 8 for rank in range(64)), 3, 1)


def crossing(
    schedules: list[Schedule], hosts: Layout, weights: dict[str, Fraction]
) -> tuple[Counter[int], Counter[int]]:
    """What each host sends to, and receives from, others, where a chunk of a buffer weighs ``weights``."""
    sent: Counter[int] = Counter()
    received: Counter[int] = Counter()
    for rank, schedule in enumerate(schedules):
        for step in schedule.steps:
            if step.action is Action.SEND and hosts[rank] != hosts[step.peer]:
                assert step.source is not None
                weight = (step.source.last - step.source.first) * weights[step.source.buffer]
                sent[hosts[rank]] += weight  # type: ignore[assignment]
                received[hosts[step.peer]] += weight  # type: ignore[assignment]
    return sent, received


@pytest.mark.parametrize("hosts", [(0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 1, 1), (0, 0, 1, 1, 2, 2), (0, 1, 1, 2, 2, 2)])
def test_the_network_carries_each_byte_once_per_host(hosts: Layout) -> None:
    n, h = len(hosts), len(set(hosts))

    def group(kind: str) -> list[Schedule]:
        return [generate(kind, "hierarchical", n, rank, hosts=hosts) for rank in range(n)]

    schedules = group("all_reduce")
    part = Fraction(1, schedules[0].chunks["out"])
    sent, received = crossing(schedules, hosts, {"in": part, "out": part})
    assert set(sent.values()) == set(received.values()) == {Fraction(2 * (h - 1), h)}
    sent, received = crossing(group("all_gather"), hosts, {"in": Fraction(1, n), "out": Fraction(1, n)})
    for host in set(hosts):
        assert received[host] == 1 - Fraction(hosts.count(host), n)
    sent, received = crossing(group("reduce_scatter"), hosts, {"in": Fraction(1, n), "tmp": Fraction(1, n)})
    for host in set(hosts):
        assert sent[host] == 1 - Fraction(hosts.count(host), n)
    schedules = group("broadcast")
    part = Fraction(1, schedules[0].chunks["out"])
    _, received = crossing(schedules, hosts, {"out": part})
    assert dict(received) == dict.fromkeys(set(hosts) - {hosts[0]}, 1)


@pytest.mark.parametrize(
    "hosts", [(0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 1, 1), (0, 1, 1, 2, 2, 2), (0, *[1] * 7, *[2] * 8, 3), (0,) * 5]
)
def test_few_messages_carry_all_blocks_between_two_hosts(hosts: Layout) -> None:
    """As many as the smaller host has ranks, and they hold nothing but what crosses."""
    n = len(hosts)
    messages: Counter[tuple[int, int]] = Counter()
    blocks: Counter[tuple[int, int]] = Counter()
    for rank in range(n):
        for step in generate("all_to_all", "hierarchical", n, rank, hosts=hosts).steps:
            if step.action is Action.SEND and hosts[rank] != hosts[step.peer]:
                assert step.source is not None
                messages[hosts[rank], hosts[step.peer]] += 1
                blocks[hosts[rank], hosts[step.peer]] += step.source.last - step.source.first
    pairs = [(a, b) for a in set(hosts) for b in set(hosts) if a != b]
    assert messages == {(a, b): min(hosts.count(a), hosts.count(b)) for a, b in pairs}
    assert blocks == {(a, b): hosts.count(a) * hosts.count(b) for a, b in pairs}


def test_neighbours_are_handed_all_in_one_message() -> None:
    hosts = tuple(rank // 8 for rank in range(64))
    for rank in (0, 9, 63):
        steps = generate("all_to_all", "hierarchical", 64, rank, hosts=hosts).steps
        sent = Counter(step.peer for step in steps if step.action is Action.SEND)
        assert set(sent.values()) == {1} and len(sent) == 7 + 7


def test_all_ranks_of_a_host_share_the_work() -> None:
    for hosts in ((0, 0, 1, 1), (0, 0, 0, 1, 1), (0, 1, 1, 2, 2, 2)):
        layout = Hosts(hosts)
        for host in range(layout.count):
            carried = Counter(layout.carrier(host, piece) for piece in range(layout.shares))
            assert len(set(carried.values())) == 1 and set(carried) == set(layout.members[host])


def test_the_choice_among_hosts() -> None:
    assert choose_across("all_reduce", 64 << 20, (0, 0, 1, 1)).algorithm == "hierarchical"
    assert choose_across("all_reduce", 64 << 20, (0, 1, 2, 3)).algorithm == "ring"  # nobody shares a host
    assert choose_across("all_reduce", 64 << 20, (0, 0, 0, 0)).algorithm == "ring"  # all do
    assert choose_across("all_reduce", 4, (0, 0, 1, 1)).algorithm != "hierarchical"
    assert choose_across("all_to_all", 64 << 20, (0, 0, 1, 1)).algorithm == "direct"
    for kind in KINDS:
        for nbytes in (1, 1 << 10, 1 << 20, 1 << 28):
            choice = choose_across(kind, nbytes, (0, 1, 0, 2, 2))
            assert generate(kind, choice.algorithm, 5, 2, **choice.parameters).kind == kind
