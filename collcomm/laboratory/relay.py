"""A delay line with loss between bridges: the main of a process that passes Ethernet frames between TAP devices.

The kernels that this is for may lack netem. Frames are read with the kernel's offloading left on (``IFF_VNET_HDR``): what TCP
hands over in one piece of up to 64 KiB crosses this process in one read and one write, about forty packets at a time; that is
how Python keeps up with hundreds of Mbit/s at an MTU of 1500. Loss is still that of single packets: where one of such a piece
is lost, the piece is cut into what came before it and what came after.

What comes in at a port leaves by the port behind which its target was seen (by all others, if it was not), after the delay of
that pair of ports. Rates are not made here but by shapers of the devices around it. The delay line is bounded: what does not fit
is dropped at its tail, and counted.

Run by its path, with the standard library alone: python relay.py '{"ports": ["tap0", "tap1"], "delay": [[0, 0.05], [0.05, 0]],
"loss": [[0, 0.01], [0.01, 0]], "seed": 1, "held": 16777216}'. Prints "ready"; then takes lines of JSON: {"delay": ...},
{"loss": ...}, {"counters": true}; answers each with one. Ends with its standard input.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import select
import struct
import sys
import time
from collections import deque
from typing import Any

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_OFFLOADS = 1 | 2 | 4 | 8  # checksums, TCP over IPv4, over IPv6, with ECN

VNET = struct.Struct("=BBHHHH")  # flags, kind, header's length, segment's length, checksum's start, its offset
VNET_BYTES = VNET.size
_NO_GSO, _TCP4, _TCP6, _ECN = 0, 1, 4, 0x80
_ETHERNET = 14
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_READ_BYTES = VNET_BYTES + _ETHERNET + 65536
_NICENESS = -20
_READS = 64  # from one port before the others have their turn


def packets(frame: bytes) -> int:
    """How many packets of the wire a frame with its offloading header stands for."""
    _, kind, _, size, start, _ = VNET.unpack_from(frame)
    if kind & ~_ECN not in (_TCP4, _TCP6) or not size:
        return 1
    return max(1, -(-(len(frame) - _headers(frame, start)) // size))


def _headers(frame: bytes, start: int) -> int:
    """Where TCP's data begin; ``start``: where its header does, behind the offloading header."""
    return VNET_BYTES + start + (frame[VNET_BYTES + start + 12] >> 4) * 4


def survivors(frame: bytes, lost: list[int]) -> list[bytes]:
    """What is left of a frame without the packets ``lost`` (their numbers in it, ascending): its runs of consecutive packets."""
    count = packets(frame)
    runs, first = [], 0
    for number in [*lost, count]:
        if number > first:
            runs.append((first, number))
        first = number + 1
    return [frame] if runs == [(0, count)] else [_cut(frame, first, last, count) for first, last in runs]


def _cut(frame: bytes, first: int, last: int, count: int) -> bytes:
    """Packets ``first`` to ``last`` - 1 of a frame that TCP segmentation offload has put together."""
    flags, kind, length, size, start, offset = VNET.unpack_from(frame)
    begin = _headers(frame, start)
    data = frame[begin + first * size : begin + last * size]
    head = bytearray(frame[:begin])
    single = last - first == 1
    VNET.pack_into(head, 0, flags, _NO_GSO if single else kind, length, 0 if single else size, start, offset)
    network, transport = VNET_BYTES + _ETHERNET, VNET_BYTES + start
    old = len(frame) - transport
    new = begin - transport + len(data)
    if kind & ~_ECN == _TCP4:
        (identity,) = struct.unpack_from("!H", head, network + 4)
        struct.pack_into("!HH", head, network + 2, transport - network + new, (identity + first) & 0xFFFF)
        head[network + 10 : network + 12] = b"\0\0"
        struct.pack_into("!H", head, network + 10, ~_fold(_sum(head[network:transport])) & 0xFFFF)
    else:
        struct.pack_into("!H", head, network + 4, transport - network - 40 + new)
    (sequence,) = struct.unpack_from("!I", head, transport + 4)
    struct.pack_into("!I", head, transport + 4, (sequence + first * size) & 0xFFFFFFFF)
    if last < count:
        head[transport + 13] &= ~(_FIN | _PSH) & 0xFF
    if first:
        head[transport + 13] &= ~_CWR & 0xFF
    (partial,) = struct.unpack_from("!H", head, transport + 16)  # of the pseudo-header, which knows the length
    struct.pack_into("!H", head, transport + 16, _fold(partial + (~old & 0xFFFF) + new))
    return bytes(head) + data


def _sum(header: bytes | bytearray) -> int:
    return sum(struct.unpack(f"!{len(header) // 2}H", header))


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Loss:
    """Which packets of a direction are lost, each with probability ``p``, independently of the others."""

    def __init__(self, p: float, seed: str):
        self._random = random.Random(seed)
        self.change(p)

    def change(self, p: float) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"a probability of loss is 0 to below 1, not {p}")
        self.p = p
        self._passing = self._draw()

    def _draw(self) -> int:
        """How many pass before the next that is lost."""
        if not self.p:
            return sys.maxsize
        return int(math.log(1.0 - self._random.random()) / math.log1p(-self.p))

    def among(self, count: int) -> list[int]:
        """Which of the next ``count`` packets are lost."""
        lost = []
        while self._passing < count:
            lost.append(self._passing)
            self._passing += 1 + self._draw()
        if self.p:
            self._passing -= count
        return lost


class Relay:
    """``held``: bytes from one port that may be on their way at a time; the other arguments by [from][to] port."""

    def __init__(self, ports: list[str], delay: list[list[float]], loss: list[list[float]], seed: int, held: int):
        n = len(ports)
        self._ports = [_open_tap(name) for name in ports]
        self._delay = delay
        self._losses = [[Loss(loss[s][t], f"{seed} {s} {t}") for t in range(n)] for s in range(n)]
        self._bound = held
        self._held = [0] * n
        self._behind: dict[bytes, int] = {}  # address: port
        self._lines: dict[float, deque[tuple[float, int, int, bytes]]] = {}  # delay: when due, from, to, frame
        self._counters = [[{"packets": 0, "bytes": 0, "lost": 0, "overflowed": 0} for _ in ports] for _ in ports]

    def run(self) -> None:
        """Until standard input ends."""
        numbers = {port: number for number, port in enumerate(self._ports)}
        waiting = [0, *self._ports]
        while True:
            due = self._release()
            readable, _, _ = select.select(waiting, [], [], due)
            for descriptor in readable:
                if descriptor != 0:
                    self._take_in(numbers[descriptor])
                elif not self._obey():
                    return

    def _release(self) -> float | None:
        """Let out what is due; returns in how many seconds the next is, None: nothing is on its way."""
        next_due = math.inf
        for line in self._lines.values():
            while line:
                due, source, target, frame = line[0]
                if due > time.monotonic():
                    next_due = min(next_due, due)
                    break
                line.popleft()
                self._held[source] -= len(frame)
                self._write(target, frame)
        return None if next_due == math.inf else max(0.0, next_due - time.monotonic())

    def _write(self, target: int, frame: bytes) -> None:
        try:
            os.write(self._ports[target], frame)
        except OSError:
            pass  # the device is down, or it is a frame that the kernel refuses: a wire would say nothing either

    def _take_in(self, source: int) -> None:
        port, behind = self._ports[source], self._behind
        for _ in range(_READS):
            try:
                frame = os.read(port, _READ_BYTES)
            except (BlockingIOError, OSError):
                return
            behind[frame[VNET_BYTES + 6 : VNET_BYTES + 12]] = source
            target = behind.get(frame[VNET_BYTES : VNET_BYTES + 6])
            now = time.monotonic()
            if target is None:
                for other in range(len(self._ports)):
                    if other != source:
                        self._pass(now, source, other, frame)
            elif target != source:
                self._pass(now, source, target, frame)

    def _pass(self, now: float, source: int, target: int, frame: bytes) -> None:
        counters = self._counters[source][target]
        count = packets(frame)
        counters["packets"] += count
        counters["bytes"] += len(frame) - VNET_BYTES
        lost = self._losses[source][target].among(count)
        counters["lost"] += len(lost)
        delay = self._delay[source][target]
        for piece in survivors(frame, lost) if lost else (frame,):
            if self._held[source] + len(piece) > self._bound:
                counters["overflowed"] += packets(piece)
            elif not delay:
                self._write(target, piece)
            else:
                self._held[source] += len(piece)
                self._lines.setdefault(delay, deque()).append((now + delay, source, target, piece))

    def _obey(self) -> bool:
        """One line of standard input; False: it has ended."""
        line = sys.stdin.readline()
        if not line:
            return False
        order: dict[str, Any] = json.loads(line)
        if "delay" in order:
            self._delay = order["delay"]
        for source, row in enumerate(order.get("loss", ())):
            for target, p in enumerate(row):
                self._losses[source][target].change(p)
        _say({"counters": self._counters} if "counters" in order else {})
        return True


def _open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH14x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _OFFLOADS)
    return descriptor


def _hurry() -> None:
    """Go before others: a wire does not wait for a processor. Where that is not granted, it is one while the machine has time."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
        with open("/proc/self/autogroup", "w") as group:  # of this session, among those of others
            group.write(str(_NICENESS))
    except OSError:
        pass


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main(settings: str) -> None:
    _hurry()
    relay = Relay(**json.loads(settings))
    _say({"ready": True})
    relay.run()


if __name__ == "__main__":
    main(sys.argv[1])
