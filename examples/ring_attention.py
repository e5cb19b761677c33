"""Attention over a sequence that processes share, and a woven block: each way checked against a single process.

    python examples/ring_attention.py

starts a coordinator and four peers on this machine, which have parts of different lengths of one sequence, and prints by how much
each way differs from what one process computes: ring attention, one way and both ways (keys and values go round), TokenRing
(queries go round, partial results return to their owner), LASP-2 (linear attention by one all_gather of states), and two layers
whose halves are woven, with the norms inside the all_reduces (TokenWeave).

Exit code: 0 if all agree, 1 if not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from children import Children, EventStream
from entry import positive, run
from torch import Tensor

import collcomm
from collcomm.overlap import combine_before, weave

SILENCE_SECONDS = 60.0
HEADS, WIDTH, HIDDEN, LAYERS = 4, 16, 96, 2  # WIDTH: of a head
TOLERANCE = 1e-12  # float64, rounded in another order


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=positive, default=4, help="processes (default: %(default)s)")
    parser.add_argument("--tokens", type=positive, default=501, help="of the sequence (default: %(default)s)")
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.tokens < chosen.peers * (chosen.peers + 1):
        parser.error(f"--tokens: {chosen.peers} peers share {chosen.peers * (chosen.peers + 1)} or more")
    return chosen


# -- softmax over keys that come in parts ------------------------------------------------------------------------------


def attend(queries: Tensor, first_query: int, keys_values: Tensor, first_key: int) -> Tensor:
    """What some queries get of some keys, causally: (query, head, WIDTH + 2), which are the values summed with their
    weights, the weights' sum, and the greatest logit, by whose exponential both are divided."""
    keys, values = keys_values.split(WIDTH, -1)
    scores = torch.einsum("qhd,khd->qhk", queries, keys) / WIDTH**0.5
    later = torch.arange(len(keys)) + first_key > (torch.arange(len(queries)) + first_query)[:, None]
    scores = scores.masked_fill(later[:, None], -torch.inf)
    top = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - top.nan_to_num(neginf=0.0))
    return torch.cat((torch.einsum("qhk,khd->qhd", weights, values), weights.sum(-1, keepdim=True), top), -1)


def merge(one: Tensor, other: Tensor) -> Tensor:
    """What queries get of two sets of keys; of ``one``, each query has seen a key."""
    top = torch.maximum(one[..., -1:], other[..., -1:])
    scaled = [part[..., :-1] * torch.exp(part[..., -1:] - top) for part in (one, other)]
    return torch.cat((scaled[0] + scaled[1], top), -1)


def finished(partial: Tensor) -> Tensor:
    return partial[..., :WIDTH] / partial[..., WIDTH : WIDTH + 1]


# -- the ways ------------------------------------------------------------------------------------------------------------


class Sequence:
    """Queries, keys and values of all tokens, the same at all peers; ``own``: this peer's part, the longer the higher its rank.
    ``whole``: of whole numbers."""

    def __init__(self, comm: collcomm.Communicator, tokens: int, whole: bool = False):
        make = torch.Generator().manual_seed(7)
        drawn = torch.randn(3, tokens, HEADS, WIDTH, generator=make, dtype=torch.float64)
        self.q, self.k, self.v = (drawn * 2).round() if whole else drawn
        n = comm.size
        self.edges = [tokens * rank * (rank + 1) // (n * (n + 1)) for rank in range(n + 1)]
        self.first = self.edges[comm.rank]
        self.own = slice(self.first, self.edges[comm.rank + 1])

    def keys_values(self, part: slice) -> Tensor:
        return torch.cat((self.k[part], self.v[part]), -1)


def ring_attention(comm: collcomm.Communicator, tokens: int, both_ways: bool) -> tuple[Tensor, Tensor]:
    given = Sequence(comm, tokens)
    queries, total = given.q[given.own], None
    for owner, block in comm.ring(both_ways).around(given.keys_values(given.own)):
        part = attend(queries, given.first, block, given.edges[owner])
        total = part if total is None else merge(total, part)
    assert total is not None
    return finished(total), softmax_attention(given)[given.own]


def token_ring(comm: collcomm.Communicator, tokens: int) -> tuple[Tensor, Tensor]:
    given = Sequence(comm, tokens)
    block, total = given.keys_values(given.own), None

    def work(owner: int, queries: Tensor) -> Tensor:
        return attend(queries, given.edges[owner], block, given.first)

    for _, part in comm.ring().visit(given.q[given.own], work):
        total = part.clone() if total is None else merge(total, part)
    assert total is not None
    return finished(total), softmax_attention(given)[given.own]


def softmax_attention(given: Sequence) -> Tensor:
    """Of one process."""
    return finished(attend(given.q, 0, given.keys_values(slice(None)), 0))


def lasp2(comm: collcomm.Communicator, tokens: int) -> tuple[Tensor, Tensor]:
    given = Sequence(comm, tokens, whole=True)
    q, k, v = given.q[given.own], given.k[given.own], given.v[given.own]
    states = comm.all_gather(torch.einsum("khd,khe->hde", k, v)[None], async_op=True)
    inner = linear_attention(q, k, v)  # meanwhile
    before = combine_before(states.result(), comm.rank)
    return inner + torch.einsum("qhd,hde->qhe", q, before), linear_attention(given.q, given.k, given.v)[given.own]


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal, of one process."""
    return torch.einsum("hqk,khd->qhd", torch.einsum("qhd,khd->hqk", q, k).tril(), v)


# -- a block in halves ---------------------------------------------------------------------------------------------------


class Layer:
    """Attention and a network of one hidden layer; ``share``: the ones of a rank, of which sums over ranks are the whole."""

    def __init__(self, number: int, rank: int = 0, size: int = 1):
        make = torch.Generator().manual_seed(number)
        width = HEADS * WIDTH
        into, out = (torch.randn(*shape, generator=make, dtype=torch.float64) / width**0.5 for shape in _SHAPES)
        up, down = (torch.randn(width, HIDDEN, generator=make, dtype=torch.float64) / width**0.5 for _ in range(2))
        heads = slice(HEADS * rank // size, HEADS * (rank + 1) // size)
        hidden = slice(HIDDEN * rank // size, HIDDEN * (rank + 1) // size)
        self._into, self._out = into[heads], out[heads]
        self._up, self._down = up[:, hidden], down[:, hidden]

    def sublayers(self) -> Iterator[Callable[[Tensor], Tensor]]:
        yield self._attention
        yield self._network

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("btc,hcd->bhtd", x, self._into).split(WIDTH, -1)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.einsum("bhtd,hdc->btc", mixed, self._out)

    def _network(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self._up) @ self._down.T


_SHAPES = ((HEADS, HEADS * WIDTH, 3 * WIDTH), (HEADS, WIDTH, HEADS * WIDTH))


def norm(x: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def woven(comm: collcomm.Communicator, tokens: int) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(9)
    batch = torch.randn(5, min(tokens, 20), HEADS * WIDTH, generator=make, dtype=torch.float64)

    def after(residual: Tensor) -> Callable[[Tensor, int], Tensor]:
        return lambda shard, start: norm(shard + residual[start : start + len(shard)])

    def block(x: Tensor) -> Generator[Any, Any, Tensor]:
        for number in range(LAYERS):
            for sublayer in Layer(number, comm.rank, comm.size).sublayers():
                rows = sublayer(x).flatten(0, 1)
                summed = yield comm.fused_all_reduce(rows, after(x.flatten(0, 1)), async_op=True)
                x = summed.view_as(x)
        return x

    expected = batch
    for number in range(LAYERS):
        for sublayer in Layer(number).sublayers():
            expected = norm(sublayer(expected) + expected)
    return weave(block, batch, torch.cat), expected


WAYS: dict[str, tuple[float, Callable[[collcomm.Communicator, int], tuple[Tensor, Tensor]]]] = {
    "ring attention, one way": (TOLERANCE, lambda comm, tokens: ring_attention(comm, tokens, False)),
    "ring attention, both ways": (TOLERANCE, lambda comm, tokens: ring_attention(comm, tokens, True)),
    "TokenRing": (TOLERANCE, token_ring),
    "LASP-2, linear attention": (0.0, lasp2),
    "two woven layers, fused norms": (TOLERANCE, woven),
}


# -- peers, and the job --------------------------------------------------------------------------------------------------


def be_peer(chosen: argparse.Namespace) -> int:
    emit = EventStream()
    torch.set_num_threads(1)
    # The sequence cannot do without one of its parts. TCP, as between machines.
    options = {"min_size": chosen.peers, "on_failure": "raise", "transports": ["tcp"]}
    with collcomm.join(chosen.join, name=chosen.name, **options) as comm:
        for name, (_, way) in WAYS.items():
            before = comm.stats()["bytes_sent"]
            found, expected = way(comm, chosen.tokens)
            sent = comm.stats()["bytes_sent"] - before
            emit("checked", way=name, difference=float((found - expected).abs().max()), sent=sent)
    return 0


def run_job(chosen: argparse.Namespace) -> int:
    differences: dict[str, list[float]] = {name: [] for name in WAYS}
    sent = dict.fromkeys(WAYS, 0.0)
    with (
        tempfile.TemporaryDirectory() as logs,
        collcomm.Coordinator("127.0.0.1:0") as coordinator,
        Children(Path(logs)) as children,
    ):
        for number in range(1, chosen.peers + 1):
            name = f"peer-{number}"
            options = {"join": coordinator.address, "name": name, "peers": chosen.peers, "tokens": chosen.tokens}
            command = [sys.executable, str(Path(__file__).resolve())]
            children.start(name, command + [f"--{option}={value}" for option, value in options.items()])
        for event in children.until_ended(SILENCE_SECONDS):
            if event is not None and event["event"] == "checked":
                differences[event["way"]].append(event["difference"])
                sent[event["way"]] += event["sent"] / chosen.peers
            elif event is not None and event["event"] == "exit" and event["code"]:
                print(f"{event['peer']} ended early. {children.last_words(event['peer'])}".rstrip())
    return report(chosen, differences, sent)


def report(chosen: argparse.Namespace, differences: dict[str, list[float]], sent: dict[str, float]) -> int:
    print(f"{chosen.peers} peers, {chosen.tokens} tokens, {HEADS} heads of {WIDTH}, float64, against a single process:")
    print(f"{'':32}{'differs by':>12}{'allowed':>12}{'a peer sent':>14}")
    agree = True
    for name, (allowed, _) in WAYS.items():
        found = differences[name]
        fits = len(found) == chosen.peers and max(found) <= allowed
        agree &= fits
        worst = f"{max(found):.2g}" if found else "unknown"
        print(f"{name:32}{worst:>12}{allowed:>12.2g}{sent[name] / 1e3:>11.0f} kB{'' if fits else '   NOT the same'}")
    print("All are those of a single process." if agree else "They are NOT all those of a single process.")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(run(arguments, be_peer, run_job))
