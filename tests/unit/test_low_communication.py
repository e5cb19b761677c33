"""Methods of low-communication training as state machines: no communicator, an average made here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.diloco import (
    CO2,
    AsyncTraining,
    Await,
    EagerDiLoCo,
    Launch,
    LocalSGD,
    Method,
    OneStepDelayedDiLoCo,
    OutOfStep,
    StreamingDiLoCo,
    SynchronousDiLoCo,
    Training,
    strided_fragments,
)
from collcomm.diloco.co2 import length
from tests.support.peers import run_peers

Params = dict[str, np.ndarray]
Inner = Callable[[Params, int, int], None]


def layers(count: int = 6, width: int = 5, value: float = 1.0) -> Params:
    return {f"blocks.{layer}.w": np.full(width, value, np.float32) for layer in range(count)}


def pull(params: Params, member: int, step: int) -> None:
    """An inner step: half-way gradient descent on a bowl of the member's own."""
    for array in params.values():
        array -= np.float32(0.05) * (array - np.float32(member))


def average(methods: list[Method], slot: int) -> None:
    buckets = [method.bucket(slot) for method in methods]
    mean = np.mean(buckets, axis=0, dtype=np.float32)
    for bucket in buckets:
        bucket[:] = mean


def drive(
    make: Callable[[Params], Method], members: int, steps: int, inner: Inner = pull
) -> tuple[list[Params], list[Method]]:
    """All members in step; a bucket's average is there when it is awaited."""
    everyone = [layers() for _ in range(members)]
    methods = [make(params) for params in everyone]
    for step in range(1, steps + 1):
        for member, params in enumerate(everyone):
            inner(params, member, step)
        (told,) = {tuple(method.advance()) for method in methods}
        for instruction in told:
            if isinstance(instruction, Launch):
                for method in methods:
                    method.fill(instruction.slot, members)
            else:
                average(methods, instruction.slot)
                for method in methods:
                    method.apply(instruction.slot)
    return everyone, methods


def finish(methods: list[Method]) -> None:
    for slot in methods[0].in_flight:
        average(methods, slot)
        for method in methods:
            method.apply(slot)
    for method in methods:
        method.restore()


def bits(params: Params) -> bytes:
    return b"".join(params[name].tobytes() for name in sorted(params))


MAKERS: dict[str, Callable[[Params], Method]] = {
    "local SGD": lambda params: LocalSGD(params, 10),
    "DiLoCo": lambda params: SynchronousDiLoCo(params, 10),
    "one-step-delayed": lambda params: OneStepDelayedDiLoCo(params, 10, momentum=0.5),
    "eager": lambda params: EagerDiLoCo(params, 10),
    "CO2": lambda params: CO2(params, 10),
    "streaming": lambda params: StreamingDiLoCo(params, 10, tau=3),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_method_finds_the_minimum_of_the_mean(name: str) -> None:
    everyone, methods = drive(MAKERS[name], 4, 800)
    finish(methods)
    assert len({bits(params) for params in everyone}) == 1
    np.testing.assert_allclose(everyone[0]["blocks.3.w"], 1.5, atol=0.05)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_shared_is_the_same_bits_at_all_members(name: str) -> None:
    """In the middle of a run, once what is in flight has arrived: that is what a newcomer is given, and it goes on like them."""
    _, methods = drive(MAKERS[name], 3, 47)
    for slot in methods[0].in_flight:
        average(methods, slot)
    states = [{key: array.tobytes() for key, array in method.state.items()} for method in methods]
    assert states[0] == states[1] == states[2]
    newcomer = MAKERS[name](layers(value=9.0))
    for key, array in newcomer.state.items():
        array[...] = methods[0].state[key]
    newcomer.check()
    newcomer.restore()
    assert newcomer.steps == 47 and newcomer.in_flight == methods[0].in_flight
    for slot in newcomer.in_flight:
        for method in (newcomer, methods[0]):
            method.apply(slot)
    for method in (newcomer, methods[0]):
        method.restore()
    assert all(array.tobytes() == methods[0].state[key].tobytes() for key, array in newcomer.state.items())


def test_another_method_or_other_settings_are_refused() -> None:
    mine, theirs = CO2(layers(), 10), CO2(layers(), 10, clip=0.5)
    mine.state["layout"][:] = theirs.state["layout"]
    with pytest.raises(ValueError, match="other settings"):
        mine.check()


# -- DiLoCo, one round late --------------------------------------------------------------------------------------------


class Nesterov:
    """The outer optimizer in doubles, as its definition reads."""

    def __init__(self, lr: float, momentum: float):
        self.lr, self.momentum, self.buffer = lr, momentum, 0.0

    def __call__(self, x: float, slope: float) -> float:
        self.buffer = self.momentum * self.buffer + slope
        return x - self.lr * (slope + self.momentum * self.buffer)


def test_one_step_delayed_follows_its_formula() -> None:
    anchor, outer, late = 1.0, Nesterov(0.7, 0.9), None
    for _ in range(7):
        now = np.mean([anchor - _after(anchor, member, 10) for member in range(3)])
        if late is not None:
            anchor = outer(anchor, late)
        late = now
    everyone, _ = drive(lambda params: OneStepDelayedDiLoCo(params, 10), 3, 70)
    np.testing.assert_allclose(everyone[1]["blocks.0.w"], anchor, rtol=1e-4)


def test_eager_follows_its_formula() -> None:
    """D_m(t)/M + D(t-1) - D_m(t-1)/M, with each member's own outer optimizer, as the paper has it."""
    members = 3
    x = [1.0] * members
    outer = [Nesterov(0.7, 0.9) for _ in range(members)]
    before = [0.0] * members
    for _ in range(7):
        now = [x[m] - _after(x[m], m, 10) for m in range(members)]
        x = [outer[m](x[m], now[m] / members + np.mean(before) - before[m] / members) for m in range(members)]
        before = now
    everyone, _ = drive(lambda params: EagerDiLoCo(params, 10), members, 70)
    for member in range(members):
        np.testing.assert_allclose(everyone[member]["blocks.0.w"], x[member], rtol=1e-4)


def _after(x: float, member: int, steps: int) -> float:
    return member + (x - member) * 0.95**steps


# -- CO2 ---------------------------------------------------------------------------------------------------------------


def test_co2_follows_its_formula() -> None:
    anchor, m, late = 1.0, 0.0, None
    for _ in range(9):
        now = np.mean([anchor - _after(anchor, member, 10) for member in range(3)])
        if late is not None:
            penalty = 1 + abs(0.9 * m) / abs(late)
            m = float(np.clip(0.5 * m + late / penalty, -0.2, 0.2))
            anchor -= 0.9 * m
        late = now
    everyone, methods = drive(lambda params: CO2(params, 10, lr=0.9, momentum=0.5, clip=0.2), 3, 90)
    np.testing.assert_allclose(everyone[2]["blocks.4.w"], anchor, rtol=1e-3)
    assert isinstance(methods[0], CO2) and methods[0].penalty == pytest.approx(penalty, rel=1e-2)


def test_the_staleness_penalty_matters() -> None:
    """Long rounds and a large outer step, applied a round late, overshoot for ever; with the penalty they settle down."""

    def far(penalty: float | None) -> float:
        everyone, methods = drive(lambda params: CO2(params, 40, lr=1.3, momentum=0.3, penalty=penalty), 4, 4000)
        finish(methods)
        return float(np.abs(everyone[0]["blocks.0.w"] - 1.5).max())

    assert far(None) < 0.05
    assert far(1.0) > 1


def test_momentum_clipping_really_clips_and_matters() -> None:
    """A member's one bad round throws the model far off; clipped, no step is longer than lr * phi."""

    def bad_once(params: Params, member: int, step: int) -> None:
        pull(params, member, step)
        if step == 25 and member == 0:
            for array in params.values():
                array += np.float32(1000)

    def farthest(clip: float) -> tuple[float, int]:
        moves, clipped = [0.0], 0
        at = np.float32(1)
        for rounds in (4, 5):  # the bad round is the third; its average is applied at the end of the fourth
            everyone, methods = drive(lambda params: CO2(params, 10, clip=clip), 2, 10 * rounds, bad_once)
            moves.append(float(np.abs(everyone[0]["blocks.0.w"] - at).max()))
            assert isinstance(methods[0], CO2)
            clipped = max(clipped, methods[0].clipped)
        return max(moves), clipped

    moved, clipped = farthest(0.25)
    assert moved <= 4 * 0.25 and clipped == 30
    moved, clipped = farthest(float("inf"))
    assert moved > 100 and clipped == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_average_that_is_not_finite_is_named(bad: float) -> None:
    method = CO2(layers(), 1)
    method.advance()
    method.fill(0)[0] = bad
    with pytest.raises(ValueError, match="not finite"):
        method.apply(0)


def test_the_length_of_a_vector_has_the_same_bits_in_any_order() -> None:
    vector = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 1e-3
    assert length(vector) == pytest.approx(np.linalg.norm(vector.astype(np.float64)), rel=1e-5)
    assert length(vector) == length(vector[::-1]) == length(np.random.default_rng(1).permutation(vector))
    assert length(np.zeros(3)) == length(np.zeros(0)) == 0


# -- streaming ---------------------------------------------------------------------------------------------------------


def test_streaming_in_one_fragment_that_is_waited_for_is_diloco() -> None:
    streamed, _ = drive(lambda params: StreamingDiLoCo(params, 10, tau=0, alpha=0, fragments=1, lr=0.7), 3, 60)
    whole, _ = drive(lambda params: SynchronousDiLoCo(params, 10), 3, 60)
    assert [bits(params) for params in streamed] == [bits(params) for params in whole]


def test_fragments_leave_in_turn_and_are_applied_tau_steps_later() -> None:
    method = StreamingDiLoCo(layers(6), 12, tau=5, fragments=3)
    told: dict[int, list[Any]] = {}
    for step in range(1, 37):
        for instruction in (instructions := method.advance()):
            if isinstance(instruction, Launch):
                method.fill(instruction.slot)
            else:
                method.apply(instruction.slot)
        if instructions:
            told[step] = instructions
    leaves = {step: [i.slot for i in some if isinstance(i, Launch)] for step, some in told.items()}
    comes = {step: [i.slot for i in some if isinstance(i, Await)] for step, some in told.items()}
    assert {step: slots for step, slots in leaves.items() if slots} == {
        4: [0], 8: [1], 12: [2], 16: [0], 20: [1], 24: [2], 28: [0], 32: [1], 36: [2]
    }  # fmt: skip
    assert {step: slots for step, slots in comes.items() if slots} == {
        9: [0], 13: [1], 17: [2], 21: [0], 25: [1], 29: [2], 33: [0]
    }  # fmt: skip


def test_alpha_mixes_what_was_trained_meanwhile_with_the_common_parameters() -> None:
    params = {"w": np.ones(4, np.float32)}
    method = StreamingDiLoCo(params, 4, tau=2, alpha=0.25, fragments=1, lr=1.0, momentum=0.0)
    for step in range(1, 7):
        params["w"] -= 0.125
        for instruction in method.advance():
            if isinstance(instruction, Launch):
                np.testing.assert_array_equal(method.fill(0), 0.5)
            else:
                method.apply(0)
                assert step == 6
    np.testing.assert_array_equal(method.anchors[0], 0.5)
    np.testing.assert_array_equal(params["w"], 0.25 * 0.25 + 0.75 * 0.5)


def test_strided_fragments_take_layers_from_all_depths() -> None:
    params = {**layers(7), "token": np.zeros(100, np.float32), "norm": np.zeros(2, np.float32)}
    made = strided_fragments(params)
    assert [[name for name in fragment if name.startswith("blocks")] for fragment in made] == [
        ["blocks.0.w", "blocks.3.w", "blocks.6.w"],
        ["blocks.1.w", "blocks.4.w"],
        ["blocks.2.w", "blocks.5.w"],
    ]
    assert sorted(name for fragment in made for name in fragment) == sorted(params)
    assert not any({"token", "norm"} <= set(fragment) for fragment in made), (
        "what belongs to no layer fills up the smallest"
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: StreamingDiLoCo(p, 10, tau=10), "tau is 10"),
        (lambda p: StreamingDiLoCo(p, 10, tau=-1), "tau is -1"),
        (lambda p: StreamingDiLoCo(p, 10, alpha=1.0), "alpha"),
        (lambda p: StreamingDiLoCo(p, 10, fragments=[["blocks.0.w", "blocks.9.w"]]), "'blocks.9.w', which is no parameter"),
        (lambda p: StreamingDiLoCo(p, 10, fragments=[["blocks.0.w"]]), "'blocks.1.w' is in no fragment"),
        (lambda p: StreamingDiLoCo(p, 10, fragments=[list(p), ["blocks.2.w"]]), "'blocks.2.w' is in more than one"),
        (lambda p: StreamingDiLoCo(p, 10, fragments=[list(p), []]), "fragment 1 has no parameters"),
        (lambda p: StreamingDiLoCo(p, 10, fragments=7), "fragments must be from 1 to the 6"),
        (lambda p: StreamingDiLoCo(p, 3, fragments=6), "6 fragments cannot be sent within 3"),
        (lambda p: LocalSGD(p, 0), "every must be"),
        (lambda p: OneStepDelayedDiLoCo(p, 2.5), "every must be"),
        (lambda p: Training(None, LocalSGD(p), meet_every=0), "meet_every must be"),
        (lambda p: Training(None, LocalSGD(p), extra={"clock": p["blocks.0.w"]}), "'clock' is taken"),
        (lambda p: CO2(p, clip=0), "clip"),
        (lambda p: CO2(p, penalty=float("inf")), "penalty must be a finite"),
        (lambda p: CO2(p, penalty=0.5), "penalty must be a finite"),
        (lambda p: CO2(p, lr=float("nan")), "lr"),
        (lambda p: CO2(p, momentum=1), "momentum"),
        (lambda p: CO2({}), "no parameters"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(make: Callable[[Params], Method], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(layers())


# -- over a group ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_over_a_group_it_is_what_the_machines_say(name: str) -> None:
    def body(comm: collcomm.Communicator) -> tuple[bytes, float]:
        params = layers()
        training = Training(comm, MAKERS[name](params))
        training.sync()
        while training.steps < 55:
            pull(params, comm.rank, training.steps)
            training.step()
        training.finish()
        return bits(params), float(params["blocks.1.w"][0])

    found = run_peers(3, body)
    everyone, methods = drive(MAKERS[name], 3, 55)
    finish(methods)
    assert len({data for data, _ in found}) == 1
    np.testing.assert_allclose(found[0][1], everyone[0]["blocks.1.w"], rtol=1e-4)


def test_torch_parameters_are_trained_where_they_are() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def body(comm: collcomm.Communicator) -> list[float]:
        model = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float(comm.rank))
        params = {key: p.detach().numpy() for key, p in model.named_parameters()}
        training = Training(comm, LocalSGD(params, 1))
        training.method.state["anchor"][:] = 0
        training.sync()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float(comm.rank))
        training.step()
        return [float(p.detach().mean()) for p in model.parameters()]

    assert run_peers(3, body) == [[1.0, 1.0]] * 3


def test_members_meet_now_and_then_if_asked_to() -> None:
    def body(comm: collcomm.Communicator) -> tuple[int, bytes]:
        params = layers()
        training = Training(comm, CO2(params, 4), meet_every=6)
        training.sync()
        for step in range(1, 25):
            pull(params, comm.rank, step)
            training.step()
        training.finish()
        return training.report.admissions, bits(params)

    found = run_peers(2, body)
    assert found[0] == found[1] and found[0][0] == 4
    everyone, methods = drive(lambda params: CO2(params, 4), 2, 24)
    finish(methods)
    assert bits(everyone[0]) == found[0][1], "meeting changes nothing"


def test_members_out_of_step_are_told_so() -> None:
    def body(comm: collcomm.Communicator) -> str:
        params = layers()
        training = Training(comm, LocalSGD(params, 2))
        training.sync()
        if comm.rank == 1:
            training.method.state["clock"] += 2
        training.step()
        with pytest.raises(OutOfStep, match="after inner steps 2 to 4") as told:
            training.step()
        with pytest.raises(collcomm.CollcommError, match="has failed"):
            training.step()
        return str(told.value)

    assert len(set(run_peers(2, body))) == 1


def test_a_codec_is_handed_to_the_reduction_of_buckets_alone() -> None:
    asked: list[Any] = []

    class Face:
        pending, size = 0, 1

        def all_reduce(self, x: Any, op: str = "sum", out: Any = None, codec: Any = None, **_: Any) -> Any:
            asked.append((codec, op, x.dtype.name))

            class Done:
                def result(self) -> Any:
                    return out

            return Done()

        def step(self, timeout: float | None = None) -> Any: ...

        def sync(self, state: Any, revision: Any) -> Any: ...

    params = layers()
    training = Training(Face(), SynchronousDiLoCo(params, 1), codec="e3m0")
    training.step()
    assert asked == [("e3m0", "avg", "float32"), (None, "max", "int64")]


async def test_a_cancelled_step_goes_on_with_the_next() -> None:
    """The waiting was cancelled, not the exchange: the other member is not left behind."""
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        options = {"min_size": 2, "timeout": 20, "op_timeout": 20}
        comms = await asyncio.gather(
            *(collcomm.aio.join(coordinator.address, name=f"p{i}", **options) for i in range(2))
        )
        models = [layers(), layers()]
        trainings = [AsyncTraining(comm, LocalSGD(p, 1)) for comm, p in zip(comms, models, strict=True)]
        await asyncio.gather(*(training.sync() for training in trainings))
        pull(models[0], 0, 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(trainings[0].step(), 0.05)  # the other has not come yet
        pull(models[1], 1, 1)
        await trainings[1].step()
        await asyncio.gather(*(training.finish() for training in trainings))
        assert bits(models[0]) == bits(models[1])
        await asyncio.gather(*(comm.leave() for comm in comms))
