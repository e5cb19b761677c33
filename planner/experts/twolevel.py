"""An exchange of uneven blocks among ranks on several hosts: directly, or with one message from host to host.

Direct: each rank sends to each other rank. Between hosts of m ranks that is m * m messages for each pair of hosts, each of which
costs the latency. In two levels, ranks hand over what goes to another host to the one among them that speaks with it, these
exchange one message per pair of hosts, and those that receive hand on: three exchanges, in which bytes between hosts are the
same, and bytes within a host come on top. `choose_exchange` compares the two by the alpha-beta model, in which

    a rank's messages follow each other, a latency each;
    what leaves a host, or arrives there, shares its bandwidth; within a host each rank has its own.

So small blocks to many ranks go in two levels, and large ones directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..across import NETWORK
from ..choice import LOOPBACK, Choice, Links

Matrix = tuple[tuple[int, ...], ...]  # [source][target], bytes


@dataclass(frozen=True)
class TwoLevel:
    """Three exchanges, each as [source][target] bytes: to the rank of this host that speaks with the target's, from host to host,
    and to the target. What stays within a host travels in ``collect`` at once."""

    collect: Matrix
    cross: Matrix
    spread: Matrix


def two_levels(nbytes: Sequence[Sequence[int]], hosts: Sequence[int]) -> TwoLevel:
    """For ``nbytes[source][target]`` among ranks on ``hosts``; with host g speaks the rank of a host whose number within it is g
    modulo its ranks, g counted in the order in which hosts first appear."""
    blocks, layout = _checked(nbytes, hosts)
    n = len(blocks)
    collect, cross, spread = ([[0] * n for _ in range(n)] for _ in range(3))
    members = [[rank for rank in range(n) if layout[rank] == host] for host in range(max(layout) + 1)]
    for source, row in enumerate(blocks):
        for target, size in enumerate(row):
            here, there = layout[source], layout[target]
            if here == there:
                collect[source][target] += size
                continue
            speaker, listener = members[here][there % len(members[here])], members[there][here % len(members[there])]
            collect[source][speaker] += size
            cross[speaker][listener] += size
            spread[listener][target] += size
    return TwoLevel(*(tuple(map(tuple, rows)) for rows in (collect, cross, spread)))


def choose_exchange(
    nbytes: Sequence[Sequence[int]], hosts: Sequence[int], within: Links = LOOPBACK, across: Links = NETWORK
) -> Choice:
    """ "direct" or "two_level", and its seconds. ``across.bandwidth`` is a host's, in each direction."""
    blocks, layout = _checked(nbytes, hosts)
    direct = _seconds(blocks, layout, within, across)
    levels = two_levels(blocks, hosts)
    hierarchical = sum(
        _seconds(exchange, layout, within, across) for exchange in (levels.collect, levels.cross, levels.spread)
    )
    if hierarchical < direct:
        return Choice("two_level", {"hosts": layout}, hierarchical)
    return Choice("direct", {}, direct)


def _seconds(blocks: Matrix, layout: tuple[int, ...], within: Links, across: Links) -> float:
    """Of one exchange: the slowest rank's messages and bytes within its host, or the busiest host's bytes."""
    n = len(blocks)
    ranks, hosts_out, hosts_in = [0.0] * n, [0] * (max(layout) + 1), [0] * (max(layout) + 1)
    for rank in range(n):
        sent = received = 0.0
        for other in range(n):
            if other == rank:
                continue
            far = layout[rank] != layout[other]
            links = across if far else within
            share = 0.0 if far else 1 / within.bandwidth
            out, back = blocks[rank][other], blocks[other][rank]
            sent += links.latency + out * share if out else 0.0
            received += links.latency + back * share if back else 0.0
            if far:
                hosts_out[layout[rank]] += out
                hosts_in[layout[rank]] += back
        ranks[rank] = max(sent, received)
    return max(ranks) + max(*hosts_out, *hosts_in) / across.bandwidth


def _checked(nbytes: Sequence[Sequence[int]], hosts: Sequence[int]) -> tuple[Matrix, tuple[int, ...]]:
    blocks = tuple(tuple(int(size) for size in row) for row in nbytes)
    if not blocks or len(hosts) != len(blocks) or any(len(row) != len(blocks) or min(row) < 0 for row in blocks):
        raise ValueError("nbytes must be [source][target], square and not negative, with a host for each rank")
    numbers: dict[int, int] = {}
    return blocks, tuple(numbers.setdefault(host, len(numbers)) for host in hosts)
