"""The most urgent reduction goes first, also in the midst of a large one; buckets of gradients that are reduced as they fill."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
import torch

import collcomm
from collcomm.overlap import AutogradBuckets, Buckets, PriorityScheduler
from tests.support.peers import run_peers

Array = np.ndarray[Any, Any]
WAIT_SECONDS = 30.0
LARGE = 4 << 20  # elements: some chunks


def full(comm: collcomm.Communicator, size: int) -> Array:
    return np.full(size, comm.rank + 1, np.float32)


# ---- priorities ---------------------------------------------------------------------------------------------------------


def test_what_is_urgent_overtakes_what_was_there_before() -> None:
    def body(comm: collcomm.Communicator) -> list[str]:
        large, small, order = full(comm, 2 * LARGE), full(comm, 100), []
        with PriorityScheduler(comm, turn_seconds=1e-4) as scheduler:
            begun, wanted = threading.Event(), threading.Event()

            def note(start: int, stop: int) -> None:
                order.append("large")
                begun.set()
                assert wanted.wait(WAIT_SECONDS)  # so that some of it is left

            slow = scheduler.all_reduce(large, priority=1, on_chunk=note)
            assert begun.wait(WAIT_SECONDS)
            quick = scheduler.all_reduce(small, priority=0, on_chunk=lambda start, stop: order.append("small"))
            wanted.set()
            assert quick.result(WAIT_SECONDS) is small and (small == 6).all()
            assert slow.result(WAIT_SECONDS) is large and (large == 6).all()
            assert slow.reduced == 2 * LARGE and slow.view == comm.view and len(slow.views) == 1
        return order

    orders = run_peers(3, body)
    assert orders[0] == orders[1] == orders[2]
    assert orders[0].index("small") < len(orders[0]) - 2


def test_members_submit_at_other_times() -> None:
    """And chunks come in order, each once."""

    def body(comm: collcomm.Communicator) -> list[Array]:
        arrays = [np.arange(size, dtype=np.float64) + comm.rank for size in (0, 1, 1000, 300_000, 5)]
        seen: list[list[tuple[int, int]]] = [[] for _ in arrays]
        with PriorityScheduler(comm, turn_seconds=1e-3) as scheduler:
            handles = []
            for index, x in enumerate(arrays):
                time.sleep(0.02 * ((comm.rank + index) % 3))
                record = seen[index]
                handles.append(
                    scheduler.all_reduce(
                        x, "max", priority=-index, on_chunk=lambda a, b, record=record: record.append((a, b))
                    )
                )
            for handle in handles:
                handle.result(WAIT_SECONDS)
        for x, record in zip(arrays, seen, strict=True):
            assert [a for a, _ in record] == [0, *(b for _, b in record[:-1])] and record[-1][1] == len(x)
        return arrays

    for arrays in run_peers(3, body):
        assert all((x == np.arange(len(x)) + 2).all() for x in arrays)


def test_whoever_cancels_cancels_it_for_all_and_the_rest_goes_on() -> None:
    def body(comm: collcomm.Communicator) -> tuple[bool, int]:
        one, other = full(comm, LARGE), full(comm, 1000)
        with PriorityScheduler(comm, turn_seconds=1e-3) as scheduler:
            begun, go_on = threading.Event(), threading.Event()

            def note(start: int, stop: int) -> None:
                begun.set()
                go_on.wait(WAIT_SECONDS)

            unwanted = scheduler.all_reduce(one, priority=1, on_chunk=note)
            wanted = scheduler.all_reduce(other, priority=2)
            assert begun.wait(WAIT_SECONDS)
            if comm.rank == 1:
                assert unwanted.cancel()
            comm.barrier()  # it was said before the next words are exchanged
            go_on.set()
            assert (wanted.result(WAIT_SECONDS) == 3).all() and not wanted.cancel()
            with pytest.raises(CancelledError):
                unwanted.result(WAIT_SECONDS)
        reduced = unwanted.reduced
        assert (one[:reduced] == 3).all() and (one[reduced + (1 << 18) :] == comm.rank + 1).all()
        return 0 < reduced < LARGE, reduced

    (partly, reduced), other = run_peers(2, body)
    assert partly and other == (True, reduced)


def test_a_member_goes_in_the_midst() -> None:
    """Its numbers are in what had been reduced before, for all alike, and the handle says that there were two views."""

    def body(comm: collcomm.Communicator) -> tuple[int, Array] | None:
        x, begun = full(comm, LARGE), threading.Event()
        scheduler = PriorityScheduler(comm)
        handle = scheduler.all_reduce(x, on_chunk=lambda start, stop: begun.set())
        assert begun.wait(WAIT_SECONDS)
        if comm.rank == 2:
            comm.close()
            with pytest.raises(collcomm.CommunicatorClosed):
                handle.result(WAIT_SECONDS)
            return None
        assert handle.result(WAIT_SECONDS) is x
        assert [view.size for view in handle.views] == [3, 2] and handle.view == scheduler.view
        scheduler.close()
        return int((x == 6).sum()), x

    first, second, gone = run_peers(3, body)
    assert gone is None and first is not None and second is not None
    together, x = first
    assert 0 < together == second[0] < LARGE
    assert (x[:together] == 6).all() and (x[together:] == 3).all() and (x == second[1]).all()


def test_a_callback_that_fails_is_the_error_of_its_member_alone() -> None:
    def body(comm: collcomm.Communicator) -> str:
        def note(start: int, stop: int) -> None:
            if comm.rank == 1:
                raise KeyError("mine")

        with PriorityScheduler(comm) as scheduler:
            first, second = full(comm, 10), full(comm, 10)
            handle = scheduler.all_reduce(first, on_chunk=note)
            assert (scheduler.all_reduce(second).result(WAIT_SECONDS) == 3).all()
            try:
                return f"{handle.result(WAIT_SECONDS)[0]}"
            except KeyError as error:
                return str(error)

    assert run_peers(2, body) == ["3.0", "'mine'"]


def test_other_sizes_at_other_members_are_an_error_for_all_that_is_pending() -> None:
    def body(comm: collcomm.Communicator) -> None:
        with PriorityScheduler(comm) as scheduler:
            handles = [scheduler.all_reduce(full(comm, 10 + comm.rank)), scheduler.all_reduce(full(comm, 5))]
            for handle in handles:
                with pytest.raises(collcomm.CollectiveMismatch):
                    handle.result(WAIT_SECONDS)
            with pytest.raises(collcomm.CollectiveMismatch):
                scheduler.all_reduce(full(comm, 5))
        assert comm.all_reduce(np.ones(1))[0] == 2

    run_peers(2, body)


def test_what_nobody_else_submits_ends_with_the_scheduler() -> None:
    def body(comm: collcomm.Communicator) -> None:
        scheduler = PriorityScheduler(comm)
        handle = scheduler.all_reduce(full(comm, 10)) if comm.rank == 0 else None
        comm.barrier()
        scheduler.close()
        if handle is not None:
            with pytest.raises(collcomm.CommunicatorClosed):
                handle.result(WAIT_SECONDS)
        with pytest.raises(collcomm.CommunicatorClosed):
            scheduler.all_reduce(full(comm, 10))
        forgotten = PriorityScheduler(comm)
        with pytest.raises(ValueError, match="contiguous"):
            forgotten.all_reduce(np.ones((4, 4))[:, ::2])

    run_peers(2, body)
    deadline = time.monotonic() + WAIT_SECONDS
    while any(thread.name == "collcomm-priorities" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a scheduler outlives its group"
        time.sleep(0.05)


# ---- buckets ------------------------------------------------------------------------------------------------------------

SHAPES = {"embedding": (50, 8), "first": (8, 8), "bias": (8,), "last": (8, 3)}


def parameters() -> dict[str, Array]:
    return {name: np.zeros(shape, np.float64 if name == "bias" else np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("bucket_bytes", [1, 300, 1 << 20])
def test_gradients_get_ready_in_an_order_of_their_own(bucket_bytes: int) -> None:
    orders = [["last", "bias", "first", "embedding"], ["bias", "embedding", "last", "first"]]

    def body(comm: collcomm.Communicator) -> None:
        with Buckets(comm, parameters(), bucket_bytes=bucket_bytes) as buckets:
            for step in range(3):
                buckets.zero()
                for name in orders[comm.rank]:
                    buckets[name][...] = (comm.rank + 1) * (step + 1) * len(name)
                    buckets.ready(name)
                buckets.wait("last", WAIT_SECONDS)
                found = buckets.finish(WAIT_SECONDS)
                for name, gradient in found.items():
                    assert gradient.shape == SHAPES[name] and (gradient == 1.5 * (step + 1) * len(name)).all()
                    assert gradient is buckets[name] or (gradient == buckets[name]).all()

    run_peers(2, body)


def test_a_gradient_that_never_comes_is_named_and_the_next_step_works() -> None:
    def body(comm: collcomm.Communicator) -> str:
        with Buckets(comm, parameters(), bucket_bytes=1, patience=0.1) as buckets:
            for name in parameters():
                if comm.rank == 0 or name != "bias":
                    buckets.ready(name)
            try:
                buckets.finish(WAIT_SECONDS)
                text = ""
            except collcomm.CollcommError as error:
                text = f"{type(error).__name__}: {error}"
            for name in parameters():
                buckets[name][...] = 1
                buckets.ready(name)
            assert all((one == 1).all() for one in buckets.finish(WAIT_SECONDS).values())
            with pytest.raises(ValueError, match="ready before"):
                buckets.ready("bias"), buckets.ready("bias")
        return text

    there, here = run_peers(2, body)
    assert here.startswith("CollectiveTimeout: no gradient of 'bias' within 0.1 s")
    assert there.startswith("CollcommError: a member has given up the bucket of ")


def test_what_is_not_used_may_count_as_zero() -> None:
    def body(comm: collcomm.Communicator) -> None:
        with Buckets(comm, parameters(), unused="zero", op="sum") as buckets:
            for _ in range(2):
                buckets.zero()
                if comm.rank:
                    buckets["first"][...] = 5
                    buckets.ready("first")
                found = buckets.finish(WAIT_SECONDS)
                assert (found["first"] == 5).all() and (found["last"] == 0).all()

    run_peers(2, body)


def test_a_backward_pass_fills_buckets_and_adds_up_passes() -> None:
    """The averaged gradients are those of one process with the whole batch."""

    def model() -> Any:
        torch.manual_seed(1)
        return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()

    batch = torch.linspace(-1, 1, 72, dtype=torch.float64).reshape(12, 6)
    whole, *parts = (model() for _ in range(3))  # here: the peers are threads, which share torch's random numbers
    (2 * whole(batch).square().mean()).backward()

    def body(comm: collcomm.Communicator) -> None:
        mine, part = parts[comm.rank], batch[comm.rank * 6 : comm.rank * 6 + 6]
        buckets = AutogradBuckets(comm, mine, bucket_bytes=200)
        for step in range(3):
            if step == 1:
                mine.zero_grad()  # sets them to None: they are taken in again
            buckets.zero()
            with buckets.no_sync():
                mine(part).square().mean().backward()
            mine(part).square().mean().backward()
            buckets.finish(WAIT_SECONDS)
            for one, other in zip(mine.parameters(), whole.parameters(), strict=True):
                assert torch.allclose(one.grad, other.grad, rtol=1e-12)
        buckets.close()
        mine(part).mean().backward()  # nobody listens any more

    run_peers(2, body)
