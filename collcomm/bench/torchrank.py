"""One rank of `collcomm bench torch`: torch.distributed with our backend and with Gloo, in turn, in the same process."""

from __future__ import annotations

import importlib
import os
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .measure import alternate, repetitions, timed
from .torchstep import Step, balanced_batch
from .workload import Call, torch_call

Emit = Callable[..., None]
Times = dict[str, list[float]]
TUNING_STEPS, TUNING_ROUNDS = 3, 2
TOLERANCE = 1e-5  # between sums of gradients in another order, at parameters of at most 1


class Groups:
    """The default group, of ``case["backend"]``, as "ours", and one of Gloo; a third, of Gloo too, is what the bench itself
    talks over."""

    def __init__(self, case: dict[str, Any]):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        import torch
        import torch.distributed as distributed

        if case["backend"] == "collcomm":
            importlib.import_module("collcomm.torch")
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        address = f"tcp://127.0.0.1:{case['port']}"
        distributed.init_process_group(case["backend"], init_method=address, rank=case["rank"], world_size=case["n"])
        self.torch, self.distributed, self.n = torch, distributed, case["n"]
        self.by_name = {"ours": distributed.group.WORLD, "gloo": distributed.new_group(backend="gloo")}
        self._control = distributed.new_group(backend="gloo")

    def meet(self) -> None:
        self.distributed.barrier(group=self._control)

    def slowest(self, took: float) -> float:
        longest = self.torch.tensor([took], dtype=self.torch.float64)
        self.distributed.all_reduce(longest, op=self.distributed.ReduceOp.MAX, group=self._control)
        return float(longest)

    def same_everywhere(self, values: Any) -> bool:
        """Whether all ranks have the bits of ``values`` (float32)."""
        bits = values.view(self.torch.int32)
        low, high = bits.clone(), bits.clone()
        self.distributed.all_reduce(low, op=self.distributed.ReduceOp.MIN, group=self._control)
        self.distributed.all_reduce(high, op=self.distributed.ReduceOp.MAX, group=self._control)
        return bool(self.torch.equal(low, high))

    def alternate(self, calls: Mapping[str, Call], rounds: int, seconds: float) -> Times:
        """Times of each call, in blocks of about ``seconds``, equally many at all ranks."""
        counts = {who: repetitions(call, seconds, self.slowest) for who, call in calls.items()}
        return alternate({who: partial(timed, call, counts[who]) for who, call in calls.items()}, rounds, self.meet)


def torch_rank(case: dict[str, Any], emit: Emit) -> None:
    groups = Groups(case)
    CASES[case["what"]](groups, case, emit if case["rank"] == 0 else lambda **event: None)
    groups.meet()
    groups.distributed.destroy_process_group()


def _collective(groups: Groups, case: dict[str, Any], emit: Emit) -> None:
    for nbytes in case["sizes"]:
        what = case["kind"], nbytes, case["dtype"], groups.n
        calls = {
            who: torch_call(groups.distributed, *what, group, case["async_op"]) for who, group in groups.by_name.items()
        }
        emit(event="times", nbytes=nbytes, times=groups.alternate(calls, case["rounds"], case["block"]))


def _ddp(groups: Groups, case: dict[str, Any], emit: Emit) -> None:
    """ "alone" is DistributedDataParallel over Gloo that never synchronises."""
    of = {**groups.by_name, "alone": groups.by_name["gloo"]}
    steps = {who: Step(case["parameters"], case["rank"], group, who != "alone") for who, group in of.items()}

    def calls(batch: int, *names: str) -> dict[str, Call]:
        for name in names:
            steps[name].set_batch(batch)
        return {name: steps[name].run for name in names}

    def against_alone(batch: int) -> float:
        blocks = {who: partial(timed, run, TUNING_STEPS) for who, run in calls(batch, "alone", "gloo").items()}
        times = alternate(blocks, TUNING_ROUNDS, groups.meet)
        took = {who: groups.slowest(statistics.median(found)) for who, found in times.items()}
        return took["gloo"] / took["alone"]

    _verify_step(groups, calls(1, "ours", "gloo"), steps)
    batch = balanced_batch(against_alone)
    times = groups.alternate(calls(batch, "alone", "gloo", "ours"), case["rounds"], case["block"])
    emit(event="times", batch=batch, parameters=steps["ours"].parameters, times=times)


def _verify_step(groups: Groups, calls: Mapping[str, Call], steps: Mapping[str, Step]) -> None:
    """Raises AssertionError unless a step takes all ranks to the same bits, and to where Gloo's takes them."""
    before = steps["ours"].flat()
    for call in calls.values():
        call()
    ours, gloos = steps["ours"].flat(), steps["gloo"].flat()
    if groups.torch.equal(ours, before):
        raise AssertionError("a step of DistributedDataParallel changes nothing")
    if not groups.same_everywhere(ours):
        raise AssertionError("after a step of DistributedDataParallel the ranks have different parameters")
    if not groups.torch.allclose(ours, gloos, rtol=0, atol=TOLERANCE):
        raise AssertionError(f"a step is off Gloo's by up to {float((ours - gloos).abs().max()):.3g}")


def _dispatch(groups: Groups, case: dict[str, Any], emit: Emit) -> None:
    """What a call of one float costs in a group of one rank: ours, Gloo's, and that of a backend that does nothing."""
    import torch.distributed._functional_collectives as functional

    importlib.import_module("torch.testing._internal.distributed.fake_pg")  # registers it
    all_of = {**groups.by_name, "nothing": groups.distributed.new_group(backend="fake")}
    x = groups.torch.ones(1)

    def called(group: Any, how: str) -> Call:
        if how == "functional":
            return lambda: functional.wait_tensor(functional.all_reduce(x, "sum", group))
        if how == "async":
            return lambda: groups.distributed.all_reduce(x, group=group, async_op=True).wait()
        return lambda: groups.distributed.all_reduce(x, group=group)

    for how in ("synchronous", "async", "functional"):
        calls = {who: called(group, how) for who, group in all_of.items()}
        times = groups.alternate(calls, case["rounds"], case["block"])
        if float(x) != 1:
            raise AssertionError(f"all_reduce of 1 in a group of one rank is {float(x)}")
        emit(event="times", how=how, times=times)


CASES = {"collective": _collective, "ddp": _ddp, "dispatch": _dispatch}
