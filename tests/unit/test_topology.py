"""Topology files: what is read from them, which way transfers go, and what is said of a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from collcomm.planner.quantities import format_rate, parse_rate, parse_time
from collcomm.planner.topology import MOST_SWITCHES, Host, Topology, TopologyError
from collcomm.planner.topologyfile import load_topology, parse_topology

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "topologies"
GBIT = 125e6

PAIR = """
[[hosts]]
prefix = "h"
count = 2
attach = "s"
nic = "1 Gbit/s"
latency = "2 ms"
[[switches]]
name = "s"
"""


def _names(topology: Topology, source: int, target: int, stream: int = 0) -> list[str]:
    return [topology.names[resource] for resource in topology.path(source, target, stream)]


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1 Gbit/s", 125e6), ("40Mbit/s", 5e6), ("8 GB/s", 8e9), ("1.5 MiB/s", 1.5 * 2**20), ("8 bit/s", 1.0)],
)
def test_rates_are_read_in_their_units(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["1", "1 Gb", "-1 Gbit/s", "0 Gbit/s", "nan Gbit/s", "inf B/s", "1e300 B/s", 5, None])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


def test_times_are_read_in_their_units() -> None:
    assert parse_time("20 ms") == pytest.approx(0.02)
    assert parse_time("1.5 s") == 1.5
    assert parse_time("3us") == pytest.approx(3e-6)
    with pytest.raises(ValueError, match="time"):
        parse_time("20")
    assert format_rate(GBIT) == "1 Gbit/s"


def test_hosts_at_a_switch_share_nothing_but_their_cards() -> None:
    topology = parse_topology(PAIR)
    assert topology.n == 2 and topology.hosts == (0, 1)
    assert _names(topology, 0, 1) == ["h0 up", "h1 down"]
    assert _names(topology, 1, 0) == ["h1 up", "h0 down"]
    assert topology.latency(0, 1) == pytest.approx(0.004)
    assert [topology.capacities[resource] for resource in topology.path(0, 1)] == [GBIT, GBIT]


def test_ranks_of_a_host_share_its_memory_and_its_card() -> None:
    topology = parse_topology(PAIR.replace('nic = "1 Gbit/s"', 'nic = "1 Gbit/s"\nranks = 2\nlocal = "2 GB/s"'))
    assert topology.n == 4 and topology.hosts == (0, 0, 1, 1)
    assert _names(topology, 0, 1) == ["within h0"]
    assert set(_names(topology, 0, 2)) == set(_names(topology, 1, 3)) == {"h0 up", "h1 down"}


def test_directions_of_a_link_differ() -> None:
    topology = load_topology(EXAMPLES / "asymmetric-ring.toml")
    names = [host.name for host in topology.all_hosts]
    a, d = names.index("a"), names.index("d")
    there, back = topology.path(a, d), topology.path(d, a)
    assert _names(topology, a, d) == ["a -> d"] and topology.capacities[there[0]] == pytest.approx(50e6)
    assert _names(topology, d, a) == ["d -> a"] and topology.capacities[back[0]] == pytest.approx(5e6)


def test_transfers_go_the_way_of_fewest_hops() -> None:
    text = """
    switches = [{name = "a"}, {name = "b"}, {name = "c"}]
    hosts = [
        {name = "x", attach = "a", nic = "1 Gbit/s"},
        {name = "y", attach = "c", nic = "1 Gbit/s"},
        {name = "z", attach = "b", nic = "1 Gbit/s"},
    ]
    links = [
        {a = "a", b = "b", rate = "10 Gbit/s", latency = "1 ms"},
        {a = "b", b = "c", rate = "10 Gbit/s", latency = "1 ms"},
        {a = "a", b = "c", rate = "1 Mbit/s", latency = "9 ms"},
    ]
    """
    topology = parse_topology(text)
    assert _names(topology, 0, 1) == ["x up", "a -> c", "y down"]
    assert topology.latency(0, 1) == pytest.approx(0.009)
    assert _names(topology, 0, 2) == ["x up", "a -> b", "z down"]


def test_streams_take_different_cables_and_each_always_the_same() -> None:
    topology = load_topology(EXAMPLES / "two-paths.toml")
    cables = {topology.path(0, 2, stream)[1] for stream in range(32)}
    assert len(cables) == 4
    again = load_topology(EXAMPLES / "two-paths.toml")
    assert [topology.path(0, 2, stream) for stream in range(32)] == [again.path(0, 2, stream) for stream in range(32)]


def test_ten_thousand_hosts_spread_over_the_spines() -> None:
    topology = load_topology(EXAMPLES / "fat-tree-10000.toml")
    assert topology.n == 10_000
    assert _names(topology, 0, 39) == ["h0 up", "h39 down"]
    used: dict[str, int] = {}
    for rank in range(400):
        up, out, back, down = _names(topology, rank, 9_999 - rank)
        assert (up, down) == (f"h{rank} up", f"h{9_999 - rank} down")
        assert out.split(" -> ")[1] == back.split(" -> ")[0]
        used[back.split(" -> ")[0]] = used.get(back.split(" -> ")[0], 0) + 1
    assert len(used) == 8 and min(used.values()) > 25
    # 40 cards of 10 Gbit/s, a quarter of it, over 8 links
    assert topology.capacities[topology.path(0, 9_999)[1]] == pytest.approx(40 * 10 * GBIT / 4 / 8)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_examples_load(path: Path) -> None:
    topology = load_topology(path)
    assert topology.n == len(topology.hosts) > 1
    for target in range(1, min(topology.n, 20)):
        assert topology.path(0, target)


LINK = '[[links]]\na = "h0"\nb = "s"\nrate = "1 Gbit/s"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hosts = 3", r"hosts: write each as \[\[hosts\]\]"),
        ("", "no hosts"),
        ("[[hosts", "not TOML"),
        (PAIR + "[[racks]]", "top level: unknown key 'racks'"),
        (
            PAIR.replace("count = 2", "count = 200000"),
            r"hosts entry 1 \(h\): count is a whole number from 1 to 100,000",
        ),
        (PAIR.replace("count = 2", "count = true"), "count is a whole number"),
        (PAIR.replace("count = 2", "count = 2\nranks = 0"), "ranks is a whole number"),
        (PAIR.replace("1 Gbit/s", "0 Gbit/s"), r"hosts entry 1 \(h\): nic: a rate is above 0"),
        (PAIR.replace('"1 Gbit/s"', "inf"), "nic: inf is not a rate"),
        (PAIR.replace('"1 Gbit/s"', "nan"), "nic: nan is not a rate"),
        (PAIR.replace('"2 ms"', '"-2 ms"'), "latency: '-2 ms' is not a time"),
        (PAIR.replace('attach = "s"', 'attach = "t"'), "nothing is called 't'"),
        (PAIR.replace('nic = "1 Gbit/s"\n', ""), "needs a nic"),
        (PAIR.replace('nic = "1 Gbit/s"', 'up = "1 Gbit/s"'), "give both up and down"),
        (PAIR + '[[hosts]]\nname = "h1"\nattach = "s"\nnic = "1 B/s"', r"hosts entry 2 \(h1\): 'h1' is there already"),
        (PAIR.replace("count = 2", "count = 2\nper_switch = 1"), "2 hosts do not fit on 1 switches"),
        (PAIR + LINK.replace("h0", "x"), r"links entry 1 \(x - s\): nothing is called 'x'"),
        (PAIR + LINK.replace('rate = "1 Gbit/s"', ""), "give a rate"),
        (PAIR + LINK.replace('"h0"', '"s"'), "'s' is linked to itself"),
        (PAIR + LINK.replace('"h0"', '"h*"').replace("rate", "parallel = 65\nrate"), "parallel is a whole number"),
        (PAIR + LINK.replace('rate = "1 Gbit/s"', "oversubscription = 0"), "oversubscription is a number from"),
        (PAIR + LINK.replace('rate = "1 Gbit/s"', "oversubscription = nan"), "oversubscription is a number from"),
        (PAIR + '[[hosts]]\nname = "far"\nnic = "1 Gbit/s"', "no way from"),
        (PAIR + '[[failures]]\nhost = "h7"\nat = "1 s"', r"failures entry 1 \(h7\): no host is called 'h7'"),
        (PAIR + '[[failures]]\nlink = ["h0", "h1"]\nat = "1 s"', "no link joins 'h0' and 'h1'"),
        (PAIR + '[[failures]]\nlink = ["h0", "s"]', "give a link or a host, and at"),
    ],
)
def test_a_bad_file_is_refused_by_the_name_of_its_entry(text: str, said: str) -> None:
    with pytest.raises(TopologyError, match=said) as caught:
        parse_topology(text, "net.toml")
    assert str(caught.value).startswith("net.toml")


def test_hosts_do_not_pass_on_what_is_not_theirs() -> None:
    text = """
    hosts = [{name = "x"}, {name = "y"}, {name = "z"}]
    links = [{a = "x", b = "y", rate = "1 Gbit/s"}, {a = "y", b = "z", rate = "1 Gbit/s"}]
    """
    with pytest.raises(TopologyError, match="no way from 'z' to 'x'"):
        parse_topology(text)


def test_failures_name_what_they_take_away() -> None:
    topology = parse_topology(
        PAIR + '[[failures]]\nhost = "h1"\nat = "2 s"\n[[failures]]\nlink = ["s", "h0"]\nat = "3 s"'
    )
    host, link = topology.failures
    assert (host.at, host.ranks) == (2.0, (1,))
    assert [topology.names[resource] for resource in host.resources] == ["h1 up", "h1 down"]
    assert (link.at, link.ranks) == (3.0, ())
    assert [topology.names[resource] for resource in link.resources] == ["h0 up", "h0 down"]


def test_there_are_so_many_switches_and_no_more() -> None:
    assert len(parse_topology(_switches(MOST_SWITCHES)).switches) == MOST_SWITCHES
    with pytest.raises(TopologyError, match=r"switches entry 2 \(t\): more than 10,000 switches"):
        parse_topology(_switches(MOST_SWITCHES - 1, 2))
    with pytest.raises(TopologyError, match="more than 10,000 switches"):
        Topology("many", [Host("h")], [f"s{number}" for number in range(MOST_SWITCHES + 1)], [])


def _switches(*counts: int) -> str:
    entries = (f'[[switches]]\nprefix = "{name}"\ncount = {count}\n' for name, count in zip("st", counts, strict=False))
    return "".join(entries) + '[[hosts]]\nname = "h"\nattach = "s0"\nnic = "1 Gbit/s"\n'
