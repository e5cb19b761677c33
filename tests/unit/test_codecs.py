"""Codecs: bounds that hold for any numbers, what is not finite, payloads that are none, rounding without bias."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collcomm.codecs import (
    BF16,
    E3M0,
    E4M3,
    E5M2,
    F16,
    Codec,
    ErrorFeedback,
    Int8,
    MalformedPayload,
    TopK,
    UnknownCodec,
    codec_of,
    names,
    register,
)
from collcomm.codecs.rounding import to_codes

F32 = np.float32
MAKERS: dict[str, Callable[..., Any]] = {"f16": F16, "bf16": BF16, "fp8_e4m3": E4M3, "fp8_e5m2": E5M2}
MAKERS |= {"int8": Int8, "e3m0": E3M0}
BLOCKS = ("fp8_e4m3", "fp8_e5m2", "int8", "e3m0")
GREATEST = float(np.finfo(F32).max)
ALL: dict[str, Callable[[], Codec]] = {
    **MAKERS,
    **{f"{name}, small blocks": lambda kind=MAKERS[name]: kind(block=16) for name in BLOCKS},
    **{f"{name}, stochastic": lambda kind=kind: kind(stochastic=True, seed=3) for name, kind in MAKERS.items()},
    "topk": lambda: TopK(0.1),
}


def sample(kind: str, count: int, seed: int) -> np.ndarray:
    """Numbers of a kind that real arrays have, and of kinds that they should not have."""
    draw = np.random.default_rng(seed)
    normal = draw.standard_normal(count)
    with np.errstate(over="ignore"):
        found = {
            "normal": normal,
            "far from zero": 1000 + normal,
            "positive": np.abs(normal),
            "negative": -np.abs(normal),
            "constant": np.full(count, normal[0] if count else 0),
            "zero": np.zeros(count),
            "sparse": normal * (draw.random(count) < 0.05),
            "subnormal": normal * 1e-41,
            "tiny": normal * 2.0**-125,
            "huge": np.clip(normal * 1e38, -GREATEST, GREATEST),
            "greatest": np.where(normal < 0, -GREATEST, GREATEST),
            "greatest constant": np.full(count, GREATEST),
            "least constant": np.full(count, -GREATEST),
            "wide": normal * np.exp2(draw.integers(-149, 127, count)),
            "blocks of all ranges": normal * np.exp2(np.repeat(draw.integers(-149, 126, count // 16 + 1), 16)[:count]),
            "one outlier": np.where(np.arange(count) == count // 2, 1e6, normal),
        }[kind]
        return np.ascontiguousarray(found, F32)


KINDS = ("normal", "far from zero", "positive", "negative", "constant", "zero", "sparse", "subnormal", "tiny", "huge")
KINDS += ("greatest", "greatest constant", "least constant", "wide", "blocks of all ranges", "one outlier")


def decoded(codec: Codec, numbers: np.ndarray) -> np.ndarray:
    return codec.decode(codec.encode(numbers), np.full(numbers.size, 7, F32))


def assert_within(codec: Codec, numbers: np.ndarray, found: np.ndarray) -> None:
    bound = codec.error_bound(numbers).astype(np.float64)
    promised = np.isfinite(bound)
    error = np.abs(found[promised].astype(np.float64) - numbers[promised].astype(np.float64))
    assert (error <= bound[promised]).all(), (
        codec,
        float(numbers[promised][np.argmax(error - bound[promised])]),
        float(found[promised][np.argmax(error - bound[promised])]),
        float(bound[promised][np.argmax(error - bound[promised])]),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_errors_stay_within_what_is_said(name: str, kind: str) -> None:
    for count in (1, 2, 15, 16, 17, 255, 1024, 1025, 5000, 70_001):
        codec, numbers = ALL[name](), sample(kind, count, count)
        before = numbers.copy()
        found = decoded(codec, numbers)
        assert np.array_equal(numbers, before)
        assert_within(codec, numbers, found)
        assert np.isfinite(found).all() or "f16" in name


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(ALL)),
    numbers=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=70),
)
def test_errors_stay_within_what_is_said_of_any_numbers(name: str, numbers: list[float]) -> None:
    array = np.array(numbers, F32)
    codec = ALL[name]()
    assert_within(codec, array, decoded(codec, array))


def test_bounds_say_something() -> None:
    """They are within a small factor of the errors that do occur."""
    numbers = sample("normal", 100_000, 1)
    for name, kind in MAKERS.items():
        codec = kind()
        worst = np.max(np.abs(decoded(codec, numbers) - numbers) / codec.error_bound(numbers))
        assert 0.8 < worst <= 1, name


def test_precision_is_what_the_docstrings_say() -> None:
    numbers = sample("normal", 4096, 2)
    found = {name: np.abs(decoded(kind(), numbers) - numbers) for name, kind in MAKERS.items()}
    blocks = np.abs(numbers).reshape(-1, 1024).max(axis=1)
    assert (found["f16"] <= np.abs(numbers) * 2.0**-11 + 2.0**-25).all()
    assert (found["bf16"] <= np.abs(numbers) * 2.0**-8).all()
    assert (found["int8"].reshape(-1, 1024).max(axis=1) <= 2 * blocks / 508 * 1.002).all()
    assert (found["fp8_e4m3"] <= np.abs(numbers) / 16 * 1.001 + 1e-5).all()
    assert (found["e3m0"] <= np.maximum(np.abs(numbers) / 3, np.abs(numbers).max() * 3 / 256) * 1.001).all()


def test_sizes_are_known_beforehand() -> None:
    per_number = {"f16": 2, "bf16": 2, "fp8_e4m3": 1 + 4 / 1024, "fp8_e5m2": 1 + 4 / 1024, "int8": 1 + 8 / 1024}
    per_number |= {"e3m0": 0.5 + 4 / 256, "topk": 0.08}
    for name, each in per_number.items():
        codec = codec_of(name)
        assert codec.encoded_bytes(1 << 20) == pytest.approx(each * (1 << 20), abs=32)
        for count in (0, 1, 3, 1023, 1025):
            payload = codec.encode(np.ones(count, F32))
            assert payload.size == codec.encoded_bytes(count) and payload.size % 8 == 0
        with pytest.raises(ValueError, match="a payload holds"):
            codec.encoded_bytes(1 << 33)


@pytest.mark.parametrize("name", ALL)
def test_empty_arrays(name: str) -> None:
    codec, nothing = ALL[name](), np.empty(0, F32)
    assert codec.encode(nothing).size == 8
    assert codec.decode(codec.encode(nothing), nothing).size == 0
    assert codec.add(codec.encode(nothing), nothing).size == 0
    assert codec.error_bound(nothing).size == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [name for name in ALL if name.startswith(BLOCKS)])
def test_a_block_with_what_is_not_finite_decodes_to_nan(name: str, value: float) -> None:
    codec = ALL[name]()
    numbers = sample("normal", 5 * codec.block + 5, 4)
    for place in (0, codec.block + 1, numbers.size - 1):
        spoilt = numbers.copy()
        spoilt[place] = value
        found = decoded(codec, spoilt)
        block = np.arange(numbers.size) // codec.block == place // codec.block
        assert np.isnan(found[block]).all()
        assert np.isfinite(found[~block]).all()
        assert_within(codec, spoilt, found)


@pytest.mark.parametrize("name", ["f16", "bf16", "f16, stochastic", "bf16, stochastic", "topk"])
def test_numbers_on_their_own_stay_what_they_are(name: str) -> None:
    numbers = sample("normal", 100, 5)
    numbers[[3, 50, 98]] = np.nan, np.inf, -np.inf
    found = decoded(ALL[name](), numbers)
    assert np.array_equal(found[[3, 50, 98]], numbers[[3, 50, 98]], equal_nan=True)
    assert np.isfinite(np.delete(found, [3, 50, 98])).all()


def test_too_large_for_half_precision_is_infinite_and_not_promised() -> None:
    numbers = np.array([65504, 1e6, -1e6], F32)
    assert decoded(F16(), numbers).tolist() == [65504, np.inf, -np.inf]
    assert np.isinf(F16().error_bound(numbers)[1:]).all()


def test_int8_keeps_zeros_and_constants() -> None:
    sparse = sample("sparse", 50_000, 6)
    assert (decoded(Int8(), sparse)[sparse == 0] == 0).all()
    for value in (0.1, -3e-39, GREATEST, -GREATEST, 1e20):
        constant = np.full(3000, value, F32)
        assert np.array_equal(decoded(Int8(), constant), constant)


def test_e3m0_keeps_the_greatest_and_zero() -> None:
    numbers = sample("normal", 256 * 40, 7)
    found = decoded(E3M0(), numbers).reshape(-1, 256)
    greatest = np.abs(numbers.reshape(-1, 256)).argmax(axis=1)
    rows = np.arange(40)
    assert np.array_equal(found[rows, greatest], numbers.reshape(-1, 256)[rows, greatest])
    assert not decoded(E3M0(), np.zeros(999, F32)).any()
    assert np.unique(np.abs(found[0])).size <= 8


@pytest.mark.parametrize("kind", [E4M3, E5M2, F16])
def test_codes_are_those_of_a_cast(kind: Any) -> None:
    bits = 8 * kind.kind.itemsize
    every = np.arange(1 << bits, dtype=f"u{bits // 8}").view(kind.kind).astype(F32)
    grid = np.unique(every[np.isfinite(every)])
    halfway = (grid[1:] + grid[:-1]) / 2
    near = [np.nextafter(halfway, F32(side)) for side in (-np.inf, np.inf)]
    numbers = np.concatenate([grid, halfway, *near, sample("subnormal", 99, 1), [1e-30, -1e-9]]).astype(F32)
    codes = to_codes(numbers.copy().view(np.uint32), kind.mantissa, kind.smallest, bits)
    assert np.array_equal(codes, numbers.astype(kind.kind).view(f"u{bits // 8}"))


def test_f16_is_what_a_cast_makes() -> None:
    numbers = np.concatenate([sample(kind, 5000, 17) for kind in KINDS])
    edges = [65504, 65519.99, 65520, 65536, 1e9, np.inf, np.nan, 0, -0.0]
    numbers = np.concatenate([numbers, edges, np.negative(edges)]).astype(F32)
    with np.errstate(all="ignore"):
        expected = numbers.astype(np.float16)
    codes = F16().encode(numbers)[8 : 8 + 2 * numbers.size].view(np.float16)
    finite = ~np.isnan(numbers)
    assert np.array_equal(codes.view(np.uint16)[finite], expected.view(np.uint16)[finite])
    assert np.isnan(codes[~finite]).all()


def test_topk_sends_the_greatest() -> None:
    numbers = sample("normal", 100_000, 8)
    found = decoded(TopK(0.01), numbers)
    kept = found != 0
    assert kept.sum() == 1000 and np.array_equal(found[kept], numbers[kept])
    assert np.abs(numbers[~kept]).max() <= np.abs(found[kept]).min()


@pytest.mark.parametrize("name", ALL)
def test_add_is_decode_and_a_sum(name: str) -> None:
    codec, numbers = ALL[name](), sample("normal", 70_001, 9)
    payload = codec.encode(numbers)
    held = sample("positive", numbers.size, 10)
    expected = held + codec.decode(payload, np.empty_like(numbers))
    assert np.array_equal(codec.add(payload, held), expected)


@pytest.mark.parametrize("name", MAKERS)
def test_stochastic_rounding_has_no_bias(name: str) -> None:
    """The mean of many roundings comes as near to the number as chance allows; plain rounding stays where it is."""
    codec, rounds = MAKERS[name](stochastic=True, seed=11), 400
    numbers = np.tile(sample("normal", 64, 12), 32)
    total = np.zeros(64)
    for _ in range(rounds):
        total += decoded(codec, numbers).reshape(32, 64).sum(axis=0)
    mean = total / rounds / 32
    bound = codec.error_bound(numbers)[:64].astype(float)
    deviation = bound / np.sqrt(rounds * 32)  # of the mean, at most: one rounding deviates by half its spacing
    assert (np.abs(mean - numbers[:64]) < 5 * deviation + 1e-6).all()
    plain = np.abs(decoded(MAKERS[name](), numbers)[:64] - numbers[:64])
    assert (plain > 5 * deviation).any()  # so the test could fail


def test_seeds_decide_the_draws() -> None:
    numbers = sample("normal", 3000, 13)
    for kind in MAKERS.values():
        one, other = (kind(stochastic=True, seed=1).encode(numbers) for _ in range(2))
        assert np.array_equal(one, other)
        assert not np.array_equal(one, kind(stochastic=True, seed=2).encode(numbers))


@pytest.mark.parametrize("name", names())
def test_payloads_that_are_none_are_refused(name: str) -> None:
    codec = codec_of(name)
    numbers = sample("normal", 1000, 14)
    payload = codec.encode(numbers)
    out = np.empty(1000, F32)
    other = codec_of("e3m0" if name != "e3m0" else "int8")
    with pytest.raises(MalformedPayload, match="bytes"):
        codec.decode(payload[:-8].copy(), out)
    with pytest.raises(MalformedPayload):
        codec.decode(payload, np.empty(8, F32))
    with pytest.raises(MalformedPayload):
        codec.decode(other.encode(numbers), out)
    for position in range(8):
        broken = payload.copy()
        broken[position] ^= 0xFF
        with pytest.raises(MalformedPayload, match="begins with"):
            codec.add(broken, out)


def test_scales_and_places_that_no_encoder_writes_are_refused() -> None:
    out, numbers = np.empty(2000, F32), sample("normal", 2000, 15)
    for codec in (Int8(), E3M0(), E4M3(), E5M2()):
        for scale in (0.0, -1.0, np.inf):
            payload = codec.encode(numbers)
            payload[8:12] = np.frombuffer(struct.pack("<f", scale), np.uint8)
            with pytest.raises(MalformedPayload, match="scale"):
                codec.decode(payload, out)
    payload = Int8().encode(numbers)
    payload[16:20] = np.frombuffer(struct.pack("<f", -np.inf), np.uint8)
    with pytest.raises(MalformedPayload, match="zero-point"):
        Int8().decode(payload, out)
    for places in ((5, 5), (7, 3), (2000, 2001)):
        payload = TopK(0.001).encode(numbers)
        payload[8:16] = np.frombuffer(struct.pack("<II", *places), np.uint8)
        with pytest.raises(MalformedPayload, match="places"):
            TopK(0.001).decode(payload, out)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(names()), rubbish=st.binary(min_size=0, max_size=64), count=st.integers(0, 40))
def test_rubbish_is_decoded_to_numbers_or_refused(name: str, rubbish: bytes, count: int) -> None:
    codec = codec_of(name)
    payload = codec.encode(np.ones(count, F32))
    payload[8 : 8 + len(rubbish)] = np.frombuffer(rubbish, np.uint8)[: max(0, payload.size - 8)]
    guard = np.full(count + 2, 3, F32)
    try:
        codec.decode(payload, guard[1:-1])
    except MalformedPayload:
        pass
    assert guard[0] == guard[-1] == 3


def test_arrays_that_do_not_fit_are_refused() -> None:
    codec = Int8()
    for wrong in (np.ones(4), np.ones((2, 2), F32), np.ones(8, F32)[::2], [1.0], np.ones(4, np.int32)):
        with pytest.raises(TypeError, match="contiguous numpy array of float32"):
            codec.encode(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="into has 9"):
        codec.encode(np.ones(4, F32), np.empty(9, np.uint8))
    into = np.empty(codec.encoded_bytes(4), np.uint8)
    assert codec.encode(np.ones(4, F32), into) is into


def test_arguments_that_make_no_sense() -> None:
    for block in (0, 8, 48, 1 << 16, 100.0):
        with pytest.raises(ValueError, match="power of two"):
            Int8(block=block)  # type: ignore[arg-type]
    for fraction in (0, -1, 0.6, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            TopK(fraction)


def test_names_and_numbers_are_unique() -> None:
    codecs = [codec_of(name) for name in names()]
    assert [codec.name for codec in codecs] == list(names())
    assert len({codec.wire_id for codec in codecs}) == len(codecs)
    assert codec_of("fp8").name == "fp8_e4m3"
    assert codec_of(codecs[0]) is codecs[0]
    with pytest.raises(UnknownCodec, match=r"'int9' is not known here; there are f16, .*int8"):
        codec_of("int9")
    with pytest.raises(TypeError, match="name or a Codec"):
        codec_of(8)  # type: ignore[arg-type]


def test_own_codecs_need_a_free_name_and_number() -> None:
    for name, number in (("int8", 70), ("mine", 5), ("fp8", 71), ("mine", 20), ("mine", 256)):
        kind = type("Mine", (F16,), {"name": name, "wire_id": number})
        with pytest.raises(ValueError, match=r"registered already|from 64 to 255"):
            register(kind)
    assert "mine" not in names()


def test_specs_tell_parameters_apart() -> None:
    found = {codec.spec for codec in (Int8(), Int8(block=64), E3M0(), TopK(), TopK(0.1), F16(), BF16(), E4M3(), E5M2())}
    assert len(found) == 9
    assert Int8(stochastic=True).spec == Int8().spec  # how a number was rounded matters to nobody who decodes it


def test_error_feedback_keeps_what_was_left_out() -> None:
    feedback = ErrorFeedback("topk")
    numbers = sample("normal", 1000, 16)
    assert np.array_equal(feedback.corrected(numbers), numbers) and feedback.corrected(numbers) is not numbers
    feedback.settle(np.full(1000, 0.5, F32))
    assert np.array_equal(feedback.corrected(numbers), numbers + F32(0.5))
    with pytest.raises(ValueError, match="1000 elements, not 4"):
        feedback.corrected(np.ones(4, F32))
    feedback.settle(np.array([np.nan, np.inf, 1], F32))
    assert feedback.residual is not None and feedback.residual.tolist() == [0, 0, 1]
    feedback.reset()
    assert feedback.residual is None
