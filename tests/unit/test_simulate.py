"""The network simulator against times worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from collcomm.planner.chance import chance
from collcomm.planner.failure import Failure
from collcomm.planner.lockstep import NoRotation, lockstep
from collcomm.planner.prediction import Prediction
from collcomm.planner.program import INLINE_BYTES
from collcomm.planner.simulate import predict, simulate
from collcomm.planner.topologyfile import load_topology, parse_topology

from collcomm.collectives import BY_MESSAGES, Schedule, Step, generate
from collcomm.collectives.schedule import chunk, combine, copy, recv, recv_reduce, send

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "topologies"
NEVER = float("inf")


@dataclass
class Cards:
    """Every rank has a card, up 2 r and down 2 r + 1; ``trunk``: a resource that ranks of different halves share."""

    n: int
    rate: float = 1e6
    delay: float = 0.0
    overhead: float = 0.0
    compute: float = 1e18
    trunk: float = 0.0
    capacities: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hosts = tuple(range(self.n))
        self.capacities = [self.rate] * (2 * self.n) + [self.trunk] * (self.trunk > 0)

    def latency(self, source: int, target: int) -> float:
        return self.delay

    def path(self, source: int, target: int) -> tuple[int, ...]:
        across = (source < self.n // 2) != (target < self.n // 2)
        return (2 * source, 2 * target + 1, *((2 * self.n,) if self.trunk and across else ()))


def _of(*ranks: Sequence[Step], chunks: int = 1, kind: str = "all_reduce") -> list[Schedule]:
    n = len(ranks)
    buffers = {"in": chunks, "out": chunks}
    return [Schedule(kind, "by hand", n, rank, buffers, tuple(steps)) for rank, steps in enumerate(ranks)]


ONE, BACK = chunk("in", 0), chunk("out", 0)
LARGE = 1_000_000


def test_one_message_takes_overheads_transfer_and_latency() -> None:
    network = Cards(2, rate=1e6, delay=0.5, overhead=0.125)
    found = simulate(_of([send(1, ONE)], [recv(0, BACK)]), LARGE, network, parts=1)
    assert found.finish == pytest.approx((0.125 + 1.0, 0.125 + 1.0 + 0.5 + 0.125))
    assert found.messages == 1 and found.exact
    assert found.carried[:4] == (LARGE, 0, 0, LARGE) and found.busy[:4] == (1.0, 0, 0, 1.0)
    assert [load.resource for load in found.busiest(2)] == [0, 3]
    assert found.busiest(1)[0].share == pytest.approx(1.0 / 1.75)


def test_reducing_takes_the_receivers_time() -> None:
    schedules = _of([send(1, ONE)], [recv_reduce(0, BACK, ONE)])
    assert simulate(schedules, LARGE, Cards(2, compute=4e6), parts=1).seconds == pytest.approx(1.25)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_a_ring_on_equal_links_takes_what_its_formula_says(n: int) -> None:
    nbytes = n * 192_000
    network = Cards(n, rate=1e6, delay=0.01, compute=8e6)
    expected = 2 * (n - 1) * (0.01 + nbytes / n / 1e6) + (n - 1) * nbytes / n / 8e6
    assert predict("all_reduce", "ring", n, nbytes, network).seconds == pytest.approx(expected, rel=1e-9)
    assert predict("reduce_scatter", "ring", n, nbytes, network).seconds == pytest.approx(
        (n - 1) * (0.01 + nbytes / n / 1e6 + nbytes / n / 8e6), rel=1e-9
    )


def test_segments_hide_reducing_but_not_latency() -> None:
    """A ring sends its wave front in order: a segment that is a step ahead goes before the next one, which waits for it."""
    nbytes = 4 * 1_024_000
    wire = 2 * 3 / 4 * nbytes / 1e6

    def seconds(segments: int, delay: float) -> float:
        schedules = [generate("all_reduce", "ring", 4, rank, segments=segments) for rank in range(4)]
        return simulate(schedules, nbytes, Cards(4, rate=1e6, delay=delay, compute=4e6), parts=1).seconds

    assert seconds(1, 0.5) == pytest.approx(wire + 6 * 0.5 + 3 * 1.024 / 4, rel=1e-9)
    assert seconds(8, 0.0) < wire + 3 * 1.024 / 4 / 2
    assert seconds(8, 0.5) > wire + 6 * 0.5


def test_a_star_takes_what_its_formula_says() -> None:
    n, nbytes = 5, 200_000
    network = Cards(n, rate=1e6, delay=0.03, compute=2e6)
    gathered = 4 * 0.2 + 0.03  # all come through the root's card, and end together
    expected = gathered + 4 * 0.1 + 4 * 0.2 + 0.03
    assert predict("all_reduce", "star", n, nbytes, network).seconds == pytest.approx(expected, rel=1e-9)


def test_transfers_through_one_trunk_have_half_each() -> None:
    schedules = _of([send(2, ONE)], [send(3, ONE)], [recv(0, BACK)], [recv(1, BACK)])
    found = simulate(schedules, LARGE, Cards(4, trunk=1e6), parts=1)
    assert found.finish == pytest.approx((2.0, 2.0, 2.0, 2.0))
    assert found.carried[8] == 2 * LARGE and found.busy[8] == pytest.approx(2.0)
    late = simulate(schedules, LARGE, Cards(4, trunk=1e6), start=[0.0, 0.5, 0.0, 0.0], parts=1)
    # half a second alone, then both at half the rate until the first has its other half, then alone again
    assert late.finish == pytest.approx((1.5, 2.0, 1.5, 2.0))


@pytest.mark.parametrize("exact", [True, False])
def test_shares_are_max_min_fair(exact: bool) -> None:
    """0 sends to 2 and 3, 1 to 3; 3's card takes a quarter. So 0 -> 3 and 1 -> 3 have 0.125 each, and 0 -> 2 what is left."""
    network = Cards(4, rate=1e6)
    network.capacities[7] = 0.25e6
    steps = ([send(2, ONE), send(3, chunk("in", 0))], [send(3, ONE)])
    schedules = _of(*steps, [recv(0, BACK)], [recv(0, BACK), recv(1, chunk("out", 1))], chunks=2)
    found = simulate(schedules, 1_024_000, network, parts=1, exact=exact)  # chunks of half of that
    assert found.finish[3] == pytest.approx(0.512 / 0.125)
    assert found.finish[2] == pytest.approx(
        0.512 / 0.875 if exact else 0.512 / 0.5
    )  # clocks leave unused what others do not take


def test_directions_have_rates_of_their_own() -> None:
    network = Cards(2, rate=1e6)
    network.capacities[2] = 0.25e6
    found = simulate(_of([send(1, ONE), recv(1, BACK)], [send(0, ONE), recv(0, BACK)]), LARGE, network, parts=1)
    assert found.finish == pytest.approx((4.0, 4.0))
    assert found.busy[0] == pytest.approx(1.0) and found.busy[2] == pytest.approx(4.0)


def test_messages_of_a_pair_follow_each_other_and_those_to_others_do_not_wait() -> None:
    network = Cards(3, rate=1e6)
    first, second = chunk("in", 0), chunk("in", 1)
    schedules = _of(
        [send(1, first), send(1, second), send(2, first)],
        [recv(0, chunk("out", 0)), recv(0, chunk("out", 1))],
        [recv(0, BACK)],
        chunks=2,
    )
    found = simulate(schedules, 2_000_000, network, parts=1)
    assert found.finish[2] == pytest.approx(2.0)  # shares 0's card with the first, not with both
    assert found.finish[1] == pytest.approx(3.0)


def test_what_is_passed_on_waits_for_what_it_reads_only() -> None:
    """1 passes 0's second chunk on while its first, for which it waits longer, is still on the way."""
    first, second = (chunk("in", part) for part in (0, 1))
    passed = [recv(0, chunk("out", 0)), recv(2, chunk("out", 1)), send(3, chunk("out", 1))]
    schedules = _of([send(1, first)], passed, [send(1, second)], [recv(1, BACK)], chunks=2)
    network = Cards(4, rate=1e6)
    network.capacities[0] = 0.1e6
    network.capacities[3] = 1e9
    found = simulate(schedules, 1_024_000, network, parts=1)
    assert found.finish[3] == pytest.approx(2 * 0.512)
    assert found.finish[1] == pytest.approx(5.12)


def test_small_messages_go_step_by_step() -> None:
    """The same shape in small: the send comes after both receipts in the program, so it waits for both."""
    first, second = (chunk("in", part) for part in (0, 1))
    passed = [recv(0, chunk("out", 0)), recv(2, chunk("out", 1)), send(3, chunk("out", 1))]
    schedules = _of([send(1, first)], passed, [send(1, second)], [recv(1, BACK)], chunks=2)
    network = Cards(4, rate=1e6)
    network.capacities[0] = 0.1e6
    network.capacities[3] = 1e9
    nbytes = INLINE_BYTES // 2
    found = simulate(schedules, nbytes, network)
    assert found.finish[3] == pytest.approx(nbytes / 2 / 0.1e6 + nbytes / 2 / 1e6)


def test_parts_of_a_message_are_passed_on_as_they_come() -> None:
    chain = _of([send(1, ONE)], [recv(0, BACK), send(2, BACK)], [recv(1, BACK)])
    size = 8 << 20
    network = Cards(3, rate=float(1 << 20))
    assert simulate(chain, size, network, parts=1).seconds == pytest.approx(16.0)
    assert simulate(chain, size, network, parts=8).seconds == pytest.approx(9.0)


def test_a_rank_that_starts_late_holds_up_its_ring() -> None:
    network = Cards(4, rate=1e6)
    schedules = [generate("all_reduce", "ring", 4, rank) for rank in range(4)]
    on_time = simulate(schedules, 409_600, network).seconds
    late = simulate(schedules, 409_600, network, start=[0.0, 0.0, 2.0, 0.0]).seconds
    assert late == pytest.approx(on_time + 2.0)


def test_streams_use_several_cables() -> None:
    topology = load_topology(EXAMPLES / "two-paths.toml")
    schedules = [
        Schedule("broadcast", "by hand", 4, rank, {"out": 1}, steps)
        for rank, steps in enumerate([(send(2, BACK),), (), (recv(0, BACK),), ()])
    ]
    one = simulate(schedules, 32 << 20, topology, parts=32)
    many = simulate(schedules, 32 << 20, topology, parts=32, streams=8)
    assert one.seconds == pytest.approx((32 << 20) / 31.25e6, rel=0.01)
    assert many.seconds < one.seconds / 1.9


def test_local_steps_take_the_ranks_time() -> None:
    steps = [copy(BACK, ONE), combine(chunk("out", 1), ONE, BACK)]
    found = simulate(_of(steps, chunks=2), 2_000_000, Cards(1, compute=1e6), parts=1)
    assert found.seconds == pytest.approx(2.0)


def test_a_broken_link_is_named_by_those_who_wait() -> None:
    topology = load_topology(EXAMPLES / "two-sites.toml")
    pair = next(pair for link, pair in zip(topology.links, topology.link_resources, strict=True) if link.a == "west")
    schedules = [generate("broadcast", "tree", 8, rank) for rank in range(8)]
    failure = Failure(0.5, "link west - east fails", pair)
    found = simulate(schedules, 64 << 20, topology, failures=[failure])
    assert found.seconds == NEVER
    assert [stuck.rank for stuck in found.stuck] == list(range(8))  # those in the west have sends left
    reasons = {stuck.rank: stuck.why for stuck in found.stuck}
    assert reasons[4] == "waits for rank 0: link west - east fails"
    assert reasons[0] == "cannot send to rank 4: link west - east fails"
    later = simulate(schedules, 64 << 20, topology, failures=[Failure(1e5, "too late", pair)])
    assert later.stuck == () and later.seconds < NEVER


def test_a_dead_rank_is_named_by_those_who_wait() -> None:
    schedules = [generate("all_reduce", "ring", 4, rank) for rank in range(4)]
    found = simulate(schedules, 4_000_000, Cards(4), failures=[Failure(1.5, "host x fails", (), (2,))])
    reasons = {stuck.rank: stuck.why for stuck in found.stuck}
    assert reasons[2] == "host x fails"
    assert "rank 2: host x fails" in reasons[3] and "waits itself" in reasons[0]
    assert found.seconds == NEVER


def test_schedules_that_do_not_meet_are_refused() -> None:
    network = Cards(2)
    with pytest.raises(ValueError, match="rank 1 waits for a message that rank 0 does not send"):
        simulate(_of([], [recv(0, BACK)]), 8, network)
    with pytest.raises(ValueError, match="rank 0 sends 1 messages that rank 1 takes 0 of"):
        simulate(_of([send(1, ONE)], []), 8, network)
    with pytest.raises(ValueError, match="give one for each"):
        simulate(_of([send(1, ONE)], [recv(0, BACK)]), 8, Cards(3))
    with pytest.raises(ValueError, match="shared memory"):
        simulate([generate("all_reduce", "oneshot", 2, rank) for rank in range(2)], 8, network)


@pytest.mark.parametrize(("kind", "algorithm"), sorted(BY_MESSAGES))
@pytest.mark.parametrize("nbytes", [0, 1000, 3_000_017])
def test_every_algorithm_ends_and_carries_what_it_sends(kind: str, algorithm: str, nbytes: int) -> None:
    n = 6
    network = Cards(n, rate=1e8, delay=1e-4, overhead=1e-5, compute=1e9)
    parameters = {"hosts": (0, 0, 1, 1, 2, 2)} if algorithm == "hierarchical" else {}
    found = predict(kind, algorithm, n, nbytes, network, root=2, **parameters)
    assert found.stuck == () and 0.0 <= found.seconds < NEVER
    assert sum(found.carried[::2]) == pytest.approx(sum(found.carried[1::2]))
    assert predict(kind, algorithm, n, nbytes, network, root=2, **parameters) == found
    least = (n - 1) * (nbytes // n) if kind not in ("all_gather", "gather", "reduce_scatter", "scatter") else 0
    assert sum(found.carried[::2]) >= least


def test_shared_clocks_agree_with_fair_shares_where_loads_are_even() -> None:
    network = Cards(16, rate=1e6, delay=1e-3, overhead=1e-5, trunk=2e6)
    schedules = [generate("all_reduce", "doubling", 16, rank) for rank in range(16)]
    fair = simulate(schedules, 200_000, network, exact=True)
    clocks = simulate(schedules, 200_000, network, exact=False)
    assert clocks.seconds == pytest.approx(fair.seconds, rel=1e-6)
    assert clocks.carried == pytest.approx(fair.carried)


def test_chance_is_the_same_everywhere_and_delays_no_more_than_the_jitter() -> None:
    drawn = [round(chance(7, number), 6) for number in range(3)]
    assert drawn == [0.039354, 0.782677, 0.963197]
    draws = [chance(1, number) for number in range(1000)]
    assert min(draws) >= 0.0 and max(draws) < 1.0 and abs(sum(draws) / 1000 - 0.5) < 0.05
    topology = load_topology(EXAMPLES / "two-sites.toml")
    schedules = [generate("all_reduce", "ring", 8, rank) for rank in range(8)]
    plain = simulate(schedules, 8000, topology).seconds
    one, same, other = (simulate(schedules, 8000, topology, seed=seed).seconds for seed in (1, 1, 2))
    assert plain < one == same != other
    assert max(one, other) < plain + 14 * 0.002


@pytest.mark.parametrize(
    ("kind", "algorithm"), [(k, a) for k, a in sorted(BY_MESSAGES) if a in ("ring", "direct") and k != "broadcast"]
)
@pytest.mark.parametrize("nbytes", [24 * 1024, 24 * 64_000])
def test_lock_step_agrees_with_the_simulation_of_every_message(kind: str, algorithm: str, nbytes: int) -> None:
    network = Cards(24, rate=1e8, delay=1e-3, overhead=1e-6, compute=1e9)
    each = predict(kind, algorithm, 24, nbytes, network)
    together = lockstep(kind, algorithm, 24, nbytes, network)
    apart = (
        0.1 if algorithm == "direct" else 0.01
    )  # rounds of a direct exchange do follow each other less than they are taken to
    assert together.seconds == pytest.approx(each.seconds, rel=apart)
    assert together.carried == pytest.approx(each.carried, rel=0.01)
    assert together.messages == each.messages


def test_lock_step_on_a_network_that_is_uneven() -> None:
    network = Cards(12, rate=1e8, delay=1e-3)
    network.capacities[10] = 2e7
    each = predict("all_reduce", "ring", 12, 12 * 256_000, network)
    together = lockstep("all_reduce", "ring", 12, 12 * 256_000, network)
    assert together.seconds == pytest.approx(each.seconds, rel=0.02)
    assert together.finish == pytest.approx(each.finish, rel=0.05)


def test_lock_step_refuses_what_is_no_rotation() -> None:
    with pytest.raises(NoRotation, match="rank 1 is no rotation"):
        lockstep("broadcast", "tree", 8, 1000, Cards(8))


def _fat_tree(hosts: int) -> str:
    return f"""
    switches = [{{prefix = "leaf", count = {hosts // 40}}}, {{prefix = "spine", count = 8}}]
    hosts = [{{prefix = "h", count = {hosts}, attach = "leaf*", nic = "10 Gbit/s", latency = "5 us"}}]
    links = [{{a = "leaf*", b = "spine*", oversubscription = 4, latency = "2 us"}}]
    """


def test_doubling_among_thousands_takes_bounded_work_per_message() -> None:
    n = 2_000
    topology = parse_topology(_fat_tree(n))
    found = predict("all_reduce", "doubling", n, 1 << 18, topology)
    assert found.stuck == () and not found.exact
    power, extra = 1024, n - 1024
    assert found.messages == power * 10 + 2 * extra
    assert found.events < 6 * found.messages  # issue, end, arrival and reduction, and some ends that moved
    assert found.seconds > 12 * (1 << 18) / 1.25e9


@pytest.mark.parametrize("root", [0, 1, 5, 15])
def test_a_broadcast_round_a_ring_is_no_rotation_whoever_its_root_is(root: int) -> None:
    with pytest.raises(NoRotation):
        lockstep("broadcast", "ring", 16, 1 << 20, Cards(16, rate=1e8), root, segments=4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_ranks() -> None:
    topology = load_topology(EXAMPLES / "fat-tree-10000.toml")
    found = predict("broadcast", "tree", 10_000, 1 << 18, topology)
    assert found.messages == 9_999 and found.events < 6 * found.messages
    ring = predict("all_gather", "ring", 10_000, 1 << 26, topology)
    assert ring.messages == 9_999 * 10_000 and ring.events < 3 * 9_999
    assert ring.seconds > (1 << 26) / 1.25e9
    with pytest.raises(ValueError, match="too many"):
        predict("all_reduce", "hierarchical", 10_000, 1 << 26, topology, hosts=tuple(r // 8 for r in range(10_000)))


def test_predictions_name_shares_of_nothing() -> None:
    empty = Prediction(0.0, (0.0,), (0.0,), (0.0,), (1.0,), 0, 0, True)
    assert empty.busiest() == []
