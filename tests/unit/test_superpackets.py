"""Loss of single packets out of what TCP's offloading has put together: what is left is what a wire would have carried."""

from __future__ import annotations

import struct

import pytest

from collcomm.laboratory.relay import VNET, VNET_BYTES, Loss, packets, survivors

SEGMENT = 1448
SEQUENCE = 0xFFFFF000  # wraps within the piece
TCP_OFFSET = 34


def _piece(payload: int, size: int = SEGMENT) -> bytes:
    """A piece of TCP over IPv4 as a TAP hands it over, with PSH and CWR set."""
    total = 20 + 32 + payload
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, total, 65535, 0x4000, 64, 6, 0, bytes((10, 48, 0, 1)), bytes((10, 48, 0, 2))
    )
    ip = ip[:10] + struct.pack("!H", ~_ones(ip) & 0xFFFF) + ip[12:]
    tcp = struct.pack("!HHIIBBHHH", 40000, 5001, SEQUENCE, 7, 8 << 4, 0x98, 512, _pseudo(32 + payload), 0) + bytes(12)
    data = bytes(i % 251 for i in range(payload))
    gso = (1, 1, 66, size) if payload > size else (1, 0, 66, 0)
    return VNET.pack(*gso, TCP_OFFSET, 16) + bytes(12) + b"\x08\x00" + ip + tcp + data


def _ones(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _pseudo(length: int) -> int:
    return _ones(bytes((10, 48, 0, 1, 10, 48, 0, 2, 0, 6)) + struct.pack("!H", length))


def _read(frame: bytes) -> tuple[int, int, int, bytes]:
    """(sequence number, IP identity, TCP flags, data), with its headers checked."""
    _, kind, _, size, start, _ = VNET.unpack_from(frame)
    ip = frame[VNET_BYTES + 14 : VNET_BYTES + 34]
    tcp = frame[VNET_BYTES + start :]
    data = tcp[32:]
    assert _ones(ip) == 0xFFFF, "the checksum of the IP header"
    assert struct.unpack_from("!H", ip, 2)[0] == 20 + 32 + len(data)
    assert struct.unpack_from("!H", tcp, 16)[0] % 0xFFFF == _pseudo(32 + len(data)) % 0xFFFF
    assert (kind, size) == ((1, SEGMENT) if len(data) > SEGMENT else (0, 0))
    return struct.unpack_from("!I", tcp, 4)[0], struct.unpack_from("!H", ip, 4)[0], tcp[13], data


@pytest.mark.parametrize("payload", [SEGMENT * 5, SEGMENT * 4 + 17])
@pytest.mark.parametrize("lost", [[0], [4], [2], [1, 2], [0, 4], [0, 2, 4], [1, 3]])
def test_what_is_left_carries_the_other_packets(payload: int, lost: list[int]) -> None:
    whole = _piece(payload)
    _, _, _, data = _read(whole)
    assert packets(whole) == 5
    left = {}
    for piece in survivors(whole, lost):
        sequence, identity, flags, carried = _read(piece)
        first = ((sequence - SEQUENCE) & 0xFFFFFFFF) // SEGMENT
        assert identity == (65535 + first) & 0xFFFF
        assert bool(flags & 0x80) == (first == 0), "CWR goes with the first packet alone"
        last = first + packets(piece)
        assert bool(flags & 0x08) == (last == 5), "PSH goes with the last"
        for number in range(first, last):
            left[number] = carried[(number - first) * SEGMENT : (number - first + 1) * SEGMENT]
    assert left == {k: data[k * SEGMENT : (k + 1) * SEGMENT] for k in range(5) if k not in lost}


def test_a_single_packet_is_lost_whole() -> None:
    assert packets(_piece(100)) == 1
    assert survivors(_piece(100), [0]) == []
    assert survivors(_piece(SEGMENT * 2), [0, 1]) == []
    assert survivors(_piece(SEGMENT * 2), []) == [_piece(SEGMENT * 2)]


def test_losses_do_not_depend_on_how_packets_are_put_together() -> None:
    def lost_by(sizes: list[int]) -> set[int]:
        loss, found, begin = Loss(0.05, "seed"), set(), 0
        for size in sizes:
            found |= {begin + number for number in loss.among(size)}
            begin += size
        return found

    singly = lost_by([1] * 40_000)
    assert singly == lost_by([40] * 1000) == lost_by([7, 33] * 1000)
    assert 0.04 < len(singly) / 40_000 < 0.06


def test_without_loss_nothing_is_lost() -> None:
    assert not any(Loss(0.0, "seed").among(40) for _ in range(1000))
    with pytest.raises(ValueError, match="probability"):
        Loss(1.0, "seed")
