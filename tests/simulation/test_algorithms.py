"""Every algorithm by messages, in any order of ranks, run by the engine among simulated peers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from collcomm.planner import Choice

from collcomm.collectives import BY_MESSAGES
from collcomm.engine import Group
from collcomm.simulate import world as worlds
from tests.simulation.test_contract import SECONDS, Calm
from tests.support.samples import sample

Array = np.ndarray[Any, Any]
SIZES = (1, 60, 300_000)  # elements of each input, at least: more than goes inline, too
SEGMENTED = {("all_reduce", "ring"), ("all_reduce", "bidirectional"), ("broadcast", "ring")}


def parameters(kind: str, algorithm: str, n: int, rng: random.Random) -> dict[str, Any]:
    order = list(range(n))
    rng.shuffle(order)
    found: dict[str, Any] = {"order": tuple(order)}
    if algorithm == "hierarchical":
        found["hosts"] = tuple(rng.randrange(3) for _ in range(n))
    if (kind, algorithm) in SEGMENTED:
        found["segments"] = rng.randint(1, 3)
    return found


def always(comm: Any, choice: Choice) -> Any:
    """A communicator of all its own, which takes that algorithm for everything."""
    group = comm.split(range(comm.size))
    assert isinstance(group._group, Group)
    group._group.choose = lambda kind, nbytes, hosts: choice
    return group


def check(kind: str, comm: Any, block: int, root: int) -> None:
    """Against numpy; in place where there is such a thing. ``block``: elements for each rank, or of each."""
    n, me = comm.size, comm.rank
    own = slice(me * block, (me + 1) * block)
    inputs = [
        sample(rank, n * block, np.int32) * (rank + 1) + np.arange(n * block, dtype=np.int32) for rank in range(n)
    ]
    x, total = inputs[me].copy(), sum(inputs)
    expected: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: total,
        "reduce_scatter": lambda: total[own],
        "all_gather": lambda: np.concatenate(inputs),
        "all_to_all": lambda: np.concatenate([each[own] for each in inputs]),
        "broadcast": lambda: inputs[root],
        "reduce": lambda: total if me == root else None,
        "gather": lambda: np.concatenate(inputs) if me == root else None,
        "scatter": lambda: inputs[root][own],
    }
    wanted = expected[kind]()
    more = {"root": root} if kind in ("broadcast", "reduce", "gather", "scatter") else {}
    if kind == "scatter":
        out = np.empty(block, np.int32)
        comm.scatter(x if me == root else None, out=out, **more)
        np.testing.assert_array_equal(out, wanted)
    else:
        result = getattr(comm, kind)(x, **more)
        assert (result is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_array_equal(result, wanted)
    np.testing.assert_array_equal(x, inputs[me])
    if kind in ("all_reduce", "broadcast", "all_to_all"):
        assert getattr(comm, kind)(x, out=x, **more) is x
        np.testing.assert_array_equal(x, wanted)


def uneven(kind: str, comm: Any) -> None:
    """Blocks of several sizes, one of them empty: those that move apart are still cut at the right places."""
    n, me = comm.size, comm.rank
    counts = [(3, 0, 5, 1, 2)[rank % 5] for rank in range(n)]
    edges = np.concatenate(([0], np.cumsum(counts)))
    own = slice(edges[me], edges[me + 1])
    if kind == "all_gather":
        result = comm.all_gather(np.full(counts[me], me), counts=counts)
        np.testing.assert_array_equal(result, np.repeat(np.arange(n), counts))
    elif kind == "reduce_scatter":
        result = comm.reduce_scatter(np.arange(edges[-1]) * (me + 1), counts=counts)
        np.testing.assert_array_equal(result, (np.arange(edges[-1]) * n * (n + 1) // 2)[own])
    elif kind == "gather":
        result = comm.gather(np.full(counts[me], me), root=n - 1, counts=counts)
        if me == n - 1:
            np.testing.assert_array_equal(result, np.repeat(np.arange(n), counts))
    elif kind == "scatter":
        out = np.empty(counts[me], int)
        comm.scatter(np.arange(edges[-1]) if me == 1 else None, root=1, out=out, counts=counts)
        np.testing.assert_array_equal(out, np.arange(edges[-1])[own])
    elif kind == "all_to_all":  # whose sizes no third rank knows, so that all algorithms come to the direct one
        table = np.array([[(a * 3 + b * 5) % 4 for b in range(n)] for a in range(n)])
        x = np.concatenate([np.full(table[me, other], me * 10 + other) for other in range(n)])
        result = comm.all_to_all(x, send_counts=table[me], recv_counts=table[:, me])
        wanted = np.concatenate([np.full(table[other, me], other * 10 + me) for other in range(n)])
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("kind", sorted({kind for kind, _ in BY_MESSAGES}))
def test_every_algorithm_in_a_random_order(kind: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithms = sorted(name for of, name in BY_MESSAGES if of == kind)
    rng = random.Random(f"{kind} {n}")
    choices = [Choice(name, parameters(kind, name, n, rng)) for name in algorithms]
    root = rng.randrange(n)
    kept: list[str] = []
    streamed: set[str] = set()

    def body(peer: Any, comm: Any) -> None:
        for choice in choices:
            group = always(comm, choice)
            for size in SIZES:
                check(kind, group, -(-size // n), root)
                plans = group._group._plans.values()
                assert {plan.algorithm for plan in plans} == {choice.algorithm}
                streamed.update(choice.algorithm for plan in plans if not plan.inline)
            uneven(kind, group)
            group.close()
        kept.append(peer.name)

    monkeypatch.setattr(worlds, "program", body)
    world = Calm(seed=n, n=n, hosts=0)
    try:
        assert world.scheduler.run_until(SECONDS, lambda: len(kept) == n), world.log_lines
        assert 2 * len(streamed) > len(algorithms)  # the others cut the vector into pieces that go inline
    finally:
        world.close()
