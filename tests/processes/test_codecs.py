"""all_reduce with a codec, among real peers: bits, bytes, deaths, disagreement."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

import collcomm
import collcomm.aio
from collcomm import coded, codedcalls, codedchoice
from collcomm.codecs import E3M0, Codec, ErrorFeedback, Int8, TopK, codec_of
from collcomm.datatypes import hvector
from tests.support.peers import run_peers

F32 = np.float32
NAMES = ("f16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8", "e3m0")
TCP: dict[str, Any] = {"transports": ["tcp"]}


def given(rank: int, count: int) -> np.ndarray:
    return np.random.default_rng(100 + rank).standard_normal(count).astype(F32)


def allowed(codec: Codec, n: int, count: int) -> np.ndarray:
    """What a sum of ``n`` peers may be off by: what each peer's rounding may do, and what that of the sum may do."""
    blocks = np.abs([given(rank, count) for rank in range(n)]).max()
    worst = np.full(count, blocks, F32)
    worst[::2] *= -1
    per_peer = codec.error_bound(worst).max()
    return per_peer * (n - 1) + codec.error_bound(worst * n).max() * 1.5 + 1e-5


@pytest.mark.parametrize("options", [{}, TCP], ids=["shm", "tcp"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_sums_and_means_are_near_and_the_same_bits_everywhere(n: int, options: dict[str, Any]) -> None:
    def body(comm: collcomm.Communicator) -> list[np.ndarray]:
        found = []
        for name in NAMES:
            for count in (0, 1, 5, 1000, 70_001):
                x = given(comm.rank, count)
                before = x.copy()
                found.append(comm.all_reduce(x, codec=name))
                found.append(comm.all_reduce(x, op="mean", codec=name))
                assert np.array_equal(x, before)
        return found

    by_rank = run_peers(n, body, **options)
    for other in by_rank[1:]:
        assert all(
            np.array_equal(one.view(np.uint32), two.view(np.uint32)) for one, two in zip(by_rank[0], other, strict=True)
        )
    results = iter(by_rank[0])
    for name in NAMES:
        for count in (0, 1, 5, 1000, 70_001):
            total = np.sum([given(rank, count) for rank in range(n)], axis=0, dtype=np.float64)
            limit = allowed(codec_of(name), n, count) if count else 0
            assert (np.abs(next(results) - total) <= limit).all(), (name, count)
            assert (np.abs(next(results) - total / n) <= limit / n).all(), (name, count)


def in_pieces(monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    """As among several hosts."""
    monkeypatch.setattr(codedcalls, "agreed", lambda proposal: (0, pieces))


def test_pieces_hide_the_codec_where_that_pays() -> None:
    assert codedchoice.pieces_for(1000, 1e-3) == 1  # two more operations would take longer than the codec
    assert codedchoice.pieces_for(64 << 20, 3e-4) in (4, 8, 16)
    assert codedchoice.pieces_for(64 << 20, 0.1) == 1  # a long way
    for count, size, pieces, block in ((100, 3, 4, 1), (100_003, 4, 8, 1024), (5, 8, 2, 256), (1 << 20, 7, 3, 64)):
        found = coded.cut(count, size, pieces, block)
        assert len(found) <= pieces + 1 and found[0].edges[0] == 0 and found[-1].edges[-1] == count
        for piece, following in pairwise(found):
            assert piece.edges[-1] == following.edges[0]
        for piece in found:
            sizes = [high - low for low, high in pairwise(piece.edges)]
            assert max(sizes) <= piece.shard and piece.shard % block == 0 and len(sizes) == size


@pytest.mark.parametrize("pieces", [2, 3, 8])
@pytest.mark.parametrize("in_place", [False, True])
def test_pieces_change_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch, pieces: int, in_place: bool) -> None:
    in_pieces(monkeypatch, pieces)
    count = 100_003

    def body(comm: collcomm.Communicator) -> np.ndarray:
        for _ in range(3):  # memory is used again
            x = given(comm.rank, count)
            out = x if in_place else np.zeros_like(x)
            assert comm.all_reduce(x, codec="int8", out=out) is out
        assert (
            not [thread for thread in threading.enumerate() if thread.name.startswith("collcomm-codec")]
            or comm.size > 1
        )
        return out

    found = run_peers(3, body)
    assert all(np.array_equal(found[0], other) for other in found[1:])
    total = np.sum([given(rank, count) for rank in range(3)], axis=0)
    assert np.abs(found[0] - total).max() <= allowed(Int8(), 3, count)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("collcomm-codec")]


def test_kinds_of_arrays() -> None:
    torch = pytest.importorskip("torch")

    def body(comm: collcomm.Communicator) -> None:
        n = comm.size
        for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
            found = comm.all_reduce(np.full((3, 5), 2, dtype), codec="int8")
            assert found.dtype == dtype and found.shape == (3, 5) and (found == 2 * n).all()
        tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
        found = comm.all_reduce(tensor, op="mean", codec="f16")
        assert torch.equal(found, tensor) and found is not tensor
        assert comm.all_reduce(tensor, codec="f16", out=tensor) is tensor
        assert torch.equal(tensor, n * torch.arange(6, dtype=torch.float32).reshape(2, 3))
        half = torch.ones(7, dtype=torch.bfloat16)
        assert torch.equal(comm.all_reduce(half, codec="int8"), n * half)
        strided = np.arange(10_000, dtype=F32).reshape(100, 100)[:, ::2]
        whole = strided.base if strided.base is not None else strided
        kept = whole.copy()
        out = np.zeros((100, 100), F32)[:, 1::2]
        comm.all_reduce(strided % 7, codec="f16", out=out)
        assert np.array_equal(out, n * (strided % 7)) and np.array_equal(whole, kept)
        strided[:] = 3
        comm.all_reduce(strided, codec="f16", out=strided)
        assert (strided == 3 * n).all()

    run_peers(2, body)


def test_what_is_not_finite_reaches_everybody() -> None:
    def body(comm: collcomm.Communicator) -> tuple[np.ndarray, np.ndarray]:
        x = np.ones(5000, F32)
        if comm.rank == 1:
            x[4000] = np.nan
            x[10] = np.inf
        return comm.all_reduce(x, codec="int8"), comm.all_reduce(x, codec="bf16")

    for blocks, single in run_peers(3, body):
        assert np.isnan(blocks[[10, 4000]]).all()
        assert np.isfinite(blocks).any() and (blocks[np.isfinite(blocks)] == 3).all()
        assert np.isnan(single[4000]) and np.isinf(single[10]) and np.isfinite(single).sum() == 4998


def test_handles_come_in_order() -> None:
    def body(comm: collcomm.Communicator) -> None:
        xs = [np.full(30_000, k, F32) for k in range(1, 5)]
        coded_handles = [comm.all_reduce(x, codec="int8", async_op=True) for x in xs]
        plain = comm.all_reduce(xs[0], async_op=True)
        for k, handle in enumerate(coded_handles, 1):
            assert (handle.result(20) == k * comm.size).all()
        assert (plain.result(20) == comm.size).all()

    run_peers(3, body)


def test_bytes_on_the_wire_are_what_the_docstring_says() -> None:
    count, n = 1 << 20, 3

    def body(comm: collcomm.Communicator) -> tuple[list[float], int]:
        x, found = given(comm.rank, count), []
        for codec in (None, "int8", "e3m0", "f16", TopK(0.01)):
            comm.all_reduce(x, codec=codec)
            comm.barrier()
            before = comm.stats()["bytes_sent"]
            comm.all_reduce(x, codec=codec)
            found.append(comm.stats()["bytes_sent"] - before)
        return found, comm._coded.pieces(4 * count)

    for sent, pieces in run_peers(n, body, **TCP):
        expected = [8 * (n - 1) / n * count]
        for codec in (Int8(), E3M0(), codec_of("f16"), TopK(0.01)):
            assert coded.wire_bytes(codec, count, n, pieces) == pytest.approx(
                2 * (n - 1) / n * codec.encoded_bytes(count), rel=0.01
            )
            expected.append(coded.wire_bytes(codec, count, n, pieces))
        for bytes_sent, payload in zip(sent, expected, strict=True):
            assert payload <= bytes_sent <= payload * 1.01 + 4096
        assert sent[0] / sent[1] > 3.9


def test_error_feedback_loses_nothing() -> None:
    """Sum of results = sum of what was given - what is still held back."""
    rounds, count = 12, 5000

    def body(comm: collcomm.Communicator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        draw = np.random.default_rng(comm.rank)
        feedback = ErrorFeedback(TopK(0.02))
        gave, got = np.zeros(count), np.zeros(count)
        for turn in range(rounds):
            x = draw.standard_normal(count).astype(F32)
            gave += x
            op = "sum" if turn % 2 else "mean"
            got += comm.all_reduce(x, op=op, codec=feedback) * (1 if op == "sum" else comm.size)
        assert feedback.residual is not None
        return gave, got, feedback.residual

    found = run_peers(3, body)
    gave, held = (np.sum([each[part] for each in found], axis=0) for part in (0, 2))
    assert np.array_equal(found[0][1], found[1][1])
    assert np.abs(found[0][1] - (gave - held)).max() < 1e-4
    assert np.abs(held).max() > 0.1  # something is held back


def test_members_choose_among_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast links take float32 as it is, to the bit; slow ones what takes the fewest bytes. All take what one has proposed."""

    def body(comm: collcomm.Communicator) -> None:
        n, x = comm.size, given(comm.rank, 50_000)
        exact = comm.all_reduce(x)

        for codec in ("auto", (None, "int8"), ["int8", None]):
            assert np.array_equal(comm.all_reduce(x, codec=codec), exact)
        double = x.astype(np.float64)
        assert comm.all_reduce(double, codec="auto", out=double) is double
        assert np.abs(double - exact).max() < 1e-5
        assert np.abs(comm.all_reduce(x, op="mean", codec="auto") * n - exact).max() < 1e-5
        comm.barrier()

    run_peers(3, body)
    monkeypatch.setattr(codedchoice, "predicted", lambda codec, *_: 1.0 if codec is None else 0.5 + codec.wire_id / 100)

    def slow(comm: collcomm.Communicator) -> np.ndarray:
        x = given(comm.rank, 50_000)
        assert np.array_equal(comm.all_reduce(x, codec="auto"), comm.all_reduce(x, codec="int8"))
        assert np.array_equal(comm.all_reduce(x, codec=("e3m0", None, "bf16")), comm.all_reduce(x, codec="bf16"))
        with pytest.raises(collcomm.CollectiveMismatch, match="codec none or int8"):
            comm.all_reduce(x, codec="auto" if comm.rank else "int8")
        for codec in ((), ["int8"] * 16):
            with pytest.raises(ValueError, match="from 1 to 15"):
                comm.all_reduce(x, codec=codec)
        with pytest.raises(ValueError, match="'int9' is not known"):
            comm.all_reduce(x, codec=("int8", "int9"))
        return x

    run_peers(3, slow)


def test_the_model_weighs_bytes_against_the_codecs_time() -> None:
    allowed = [None, codec_of("bf16"), codec_of("int8")]

    def chosen(rate: float, latency: float, count: int) -> int:
        proposal = codedchoice.propose(allowed, count, (0, 1, 2, 3), lambda kind, nbytes: latency + nbytes / rate)
        choice, pieces = codedchoice.agreed(proposal)
        assert 1 <= pieces <= codedchoice.MOST_PIECES
        return choice

    assert chosen(12.5e6, 1e-3, 16 << 20) == 2  # a slow link
    assert chosen(1e11, 1e-5, 16 << 20) == 0  # a fast one
    assert chosen(12.5e6, 0.1, 100) == 0  # so little that further operations take longer


@pytest.mark.parametrize("options", [{}, TCP], ids=["shm", "tcp"])
def test_disagreement_is_told_to_everybody(options: dict[str, Any]) -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = np.ones(100, F32)
        odd = comm.rank == 1
        for codec in ("bf16", Int8(block=64), None, "int9"):
            with pytest.raises(collcomm.CollectiveMismatch, match="int8") as caught:
                comm.all_reduce(x, codec=codec if odd else "int8")
            if codec == "int9":
                assert "which this member does not know" in str(caught.value)
        with pytest.raises(collcomm.CollectiveMismatch, match="codec"):
            comm.all_reduce(x, op="mean" if odd else "sum", codec="int8")
        with pytest.raises(collcomm.CollectiveMismatch, match="101 elements"):
            comm.all_reduce(np.ones(101, F32) if odd else x, codec="int8")
        with pytest.raises(ValueError, match="codec 'int9' is not known here"):
            comm.all_reduce(x, codec="int9")  # by nobody
        assert (comm.all_reduce(x, codec="int8") == comm.size).all()

    run_peers(3, body, **options)


class OnGpu:
    """What an array on a GPU shows of itself."""

    __cuda_array_interface__: ClassVar[dict[str, Any]] = {
        "shape": (4,),
        "typestr": "<f4",
        "data": (0, False),
        "version": 3,
    }


def test_typed_buffers() -> None:
    def body(comm: collcomm.Communicator) -> None:
        every_third = hvector(100, 1, 12, F32)
        buffer = np.arange(300, dtype=F32)
        found = comm.all_reduce(buffer, codec="f16", datatype=every_third)
        assert np.array_equal(found.reshape(-1), comm.size * buffer[::3])
        kept = buffer.copy()
        comm.all_reduce(buffer, codec="f16", datatype=every_third, out=buffer)
        kept[::3] *= comm.size
        assert np.array_equal(buffer, kept)

    run_peers(2, body)


def test_what_does_not_go_with_a_codec_is_refused_at_once() -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = np.ones(4, F32)
        for error, text, arguments in (
            (TypeError, r"floating arrays .* not int32", {"x": np.ones(4, np.int32)}),
            (TypeError, "floating arrays", {"x": np.ones(4, np.complex64)}),
            (ValueError, "ops sum and mean", {"op": "max"}),
            (ValueError, "ErrorFeedback", {"codec": "topk"}),
            (TypeError, "name or a Codec", {"codec": 8}),
            (TypeError, "dtype float64", {"out": np.ones(4)}),
            (ValueError, "shape", {"out": np.ones(5, F32)}),
            (collcomm.UnsupportedTransport, "host memory", {"x": OnGpu()}),
            (collcomm.UnsupportedTransport, "host memory", {"out": OnGpu()}),
        ):
            with pytest.raises(error, match=text):
                comm.all_reduce(**{"x": x, "codec": "int8", **arguments})
        assert comm.all_reduce(x)[0] == comm.size

    run_peers(2, body)


class Died(Exception):
    """What ends a peer."""


class Fatal(Int8):
    """int8, whose ``last``-th encoding or decoding is its peer's last act."""

    def __init__(self, last: int):
        super().__init__()
        self.left = last

    def _live(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died

    def encode(self, source: Any, into: Any = None) -> Any:
        self._live()
        return super().encode(source, into)

    def decode(self, payload: Any, out: Any) -> Any:
        self._live()
        return super().decode(payload, out)


PIECES, PEERS = 3, 3
GATHERED = 12  # acts of a peer before its last operation: nine encodings, and the decodings of the first piece


@pytest.mark.parametrize("options", [{}, TCP], ids=["shm", "tcp"])
@pytest.mark.parametrize("last", [0, 1, 4, 5, 8, 9, 11, 12, 15, 17])
def test_a_death_at_any_point_leaves_one_result(
    monkeypatch: pytest.MonkeyPatch, last: int, options: dict[str, Any]
) -> None:
    """Who dies is in the result of all survivors or of none; inputs and residuals are as before when it is done again."""
    in_pieces(monkeypatch, PIECES)
    count = 20_011

    def body(comm: collcomm.Communicator) -> Any:
        victim = comm.view.members[comm.rank].name == "peer-1"
        x = given(1 if victim else 2 * (comm.name != "peer-0"), count)
        kept = x.copy()
        if victim:
            try:
                comm.all_reduce(x, codec=Fatal(last))
            except Died:
                comm.close()
            return None
        found = comm.all_reduce(x, codec="int8", out=x if comm.name == "peer-2" else None)
        again = comm.all_reduce(kept, codec="int8")
        return found, again, comm.size, kept

    survivors = [found for found in run_peers(PEERS, body, **options) if found is not None]
    assert len(survivors) == 2
    (one, one_again, one_size, one_gave), (other, other_again, other_size, other_gave) = survivors
    assert np.array_equal(one, other) and np.array_equal(one_again, other_again) and one_size == other_size == 2
    limit = allowed(Int8(), PEERS, count)
    left = one_gave + other_gave
    assert np.abs(one_again - left).max() <= limit
    with_victim = np.abs(one - left - given(1, count)).max() <= limit
    assert with_victim or np.abs(one - left).max() <= limit
    assert with_victim == (last >= GATHERED)


def test_a_death_leaves_the_residual_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, 2)
    count = 10_000

    def body(comm: collcomm.Communicator) -> Any:
        x = given(int(comm.name[-1]), count)
        if comm.name == "peer-1":
            with pytest.raises(Died):
                comm.all_reduce(x, codec=Fatal(3))
            comm.close()
            return None
        feedback = ErrorFeedback("int8")
        found = comm.all_reduce(x, codec=feedback)
        return x, found, feedback.residual, comm.stats()["operations"]

    (x, found, held, _), (y, same, also_held, _) = [each for each in run_peers(3, body) if each is not None]
    assert np.array_equal(found, same)
    assert np.abs(found - (x + y - held - also_held)).max() < 1e-4  # of one try, not of both


def test_who_wants_no_retry_gets_the_error_and_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch, PIECES)
    count = 10_000

    def body(comm: collcomm.Communicator) -> bool:
        x = given(comm.rank, count)
        if comm.name == "peer-1":
            with pytest.raises(Died):
                comm.all_reduce(x, codec=Fatal(4))
            comm.close()
            return False
        kept = x.copy()
        with pytest.raises(
            collcomm.PeerLost, match=r"piece . of 2 of all_reduce\(sum, float32, 10000 elements, codec int8"
        ):
            comm.all_reduce(x, codec="int8", out=x)
        assert np.array_equal(x, kept) and comm.size == 2
        return True

    assert run_peers(3, body, on_failure="raise").count(True) == 2


def test_a_member_that_does_not_call_is_named_in_time() -> None:
    told = threading.Event()

    def body(comm: collcomm.Communicator) -> None:
        x = np.ones(1000, F32)
        if comm.name == "peer-1":
            assert told.wait(20)
            with pytest.raises(collcomm.CollectiveTimeout):
                comm.all_reduce(x, codec="int8")
        else:
            with pytest.raises(collcomm.CollectiveTimeout, match=r"1000 elements, codec int8.*peer-1"):
                comm.all_reduce(x, codec="int8", timeout=0.3)
            told.set()
        assert (comm.all_reduce(x, codec="int8") == 2).all()

    run_peers(2, body)


async def test_the_asyncio_face_has_codecs_too() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        comm = await collcomm.aio.join(coordinator.address, timeout=10)
        assert (await comm.all_reduce(np.full(100, 3, F32), op="mean", codec="int8") == 3).all()
        await comm.leave()
