"""Runs a plan of small messages step by step in the caller's thread: one system call per message.

A frame fits the kernel's socket buffers, so a send does not wait for its receiver, and program order is all the
concurrency that is needed (the prover checks that no schedule deadlocks under eager sends).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..collectives import Action
from ..transports.base import Stream
from ..transports.frames import HEADER_BYTES, Kind, pack
from .attempt import Attempt
from .plan import Plan
from .reduction import combine

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
RECORDED = 32  # one small operation in so many has its messages recorded: that takes a microsecond for each


def run_inline(
    plan: Plan, buffers: Mapping[str, Bytes], dtype: np.dtype[Any], ufunc: np.ufunc | None, attempt: Attempt
) -> None:
    """``buffers``: flat bytes by name. Raises Halted, Mismatch, LinkBroken."""
    epoch, seq, fingerprint = attempt.epoch, attempt.seq, attempt.fingerprint
    recorded = attempt.recorder is not None and not seq % RECORDED
    asked = 0.0
    for message in plan.messages:
        action, nbytes = message.action, message.nbytes
        if recorded:
            asked = attempt.now()
        if action is Action.SEND:
            start = message.source_from
            header = pack(Kind.DATA, epoch, seq, fingerprint, 0, nbytes, message.ordinal)
            payload = buffers[message.source][start : start + nbytes]
            send_frame(attempt, message.peer, header, payload, nbytes)
            if recorded:
                _record(attempt, message.peer, False, asked, nbytes)
            continue
        start = message.target_from
        target = buffers[message.target][start : start + nbytes]
        if action is Action.COPY:
            start = message.source_from
            target[:] = buffers[message.source][start : start + nbytes]
            continue
        header = pack(Kind.DATA, epoch, seq, fingerprint, 0, nbytes, message.ordinal)
        payload = receive_frame(attempt, message.peer, header, nbytes)
        if recorded:
            _record(attempt, message.peer, True, asked, nbytes)
        if action is Action.RECV:
            target[:] = payload
        else:
            assert ufunc is not None
            start = message.source_from
            mine = buffers[message.source][start : start + nbytes].view(dtype)
            theirs = payload.view(dtype)
            left, right = (theirs, mine) if message.received_first else (mine, theirs)
            combine(ufunc, left, right, target.view(dtype))


def _record(attempt: Attempt, peer: int, incoming: bool, asked: float, nbytes: int) -> None:
    assert attempt.recorder is not None
    now, member = attempt.now(), attempt.progress.view.ids[peer]
    place = attempt.progress.gid, attempt.epoch, attempt.seq, member, 0
    attempt.recorder.transfer(*place, incoming, asked, now, now, nbytes)


def run_commit(attempt: Attempt) -> None:
    """Dissemination barrier (Hensgen, Finkel and Manber 1988): in round k tell the rank 2^k further on, hear from the one
    2^k before. At its end this rank knows that all ranks had finished their data phase when they took part, and nothing that
    was sent over several streams will have to go again."""
    distance, number = 1, 0
    size, rank, flows = attempt.size, attempt.rank, attempt.flows
    while distance < size:
        header = pack(Kind.DONE, attempt.epoch, attempt.seq, attempt.fingerprint, 0, 0, number)
        further, before = (rank + distance) % size, (rank - distance) % size
        if flows is None or not flows.say(further, header):
            send_frame(attempt, further, header, None, 0)
        if flows is None or not flows.hear(before, header):
            receive_frame(attempt, before, header, 0)
        distance, number = distance * 2, number + 1
    if flows is not None:
        flows.finish()
        attempt.leave()


def send_frame(attempt: Attempt, rank: int, header: bytes, payload: Any, nbytes: int) -> None:
    stream = attempt.streams[rank] or attempt.open(rank)
    sent = stream.send(header, payload)
    if sent != HEADER_BYTES + nbytes:
        _send_rest(attempt, rank, stream, header, payload, nbytes, sent)


def _send_rest(
    attempt: Attempt, rank: int, stream: Stream, header: bytes, payload: Any, nbytes: int, sent: int
) -> None:
    total = HEADER_BYTES + nbytes
    try:
        while sent < total:
            rest = None if payload is None else payload[max(0, sent - HEADER_BYTES) :]
            taken = stream.send(header[sent:], rest)
            sent += taken
            if taken:
                attempt.moved()
            else:
                attempt.idle((rank,))
    finally:
        if 0 < sent < total:
            stream.owe(total - sent)


def receive_frame(attempt: Attempt, rank: int, header: bytes, nbytes: int) -> Bytes:
    """Wait for exactly the frame with ``header``; returns its payload, valid until the next call."""
    stream = attempt.streams[rank] or attempt.open(rank)
    staging = attempt.staging
    need = HEADER_BYTES + nbytes
    got = stream.receive(staging.view[:need])
    if got != need or staging.view[:HEADER_BYTES] != header:
        _receive_rest(attempt, rank, stream, header, need, got)
    marks = attempt.marks
    if not marks.first:
        marks.first = attempt.now()
    return staging.array[HEADER_BYTES:need]


def _receive_rest(attempt: Attempt, rank: int, stream: Stream, header: bytes, need: int, got: int) -> None:
    view = attempt.staging.view
    try:
        while got < need or view[:HEADER_BYTES] != header:
            if got >= HEADER_BYTES and view[:HEADER_BYTES] != header and attempt.is_ours(rank, view[:HEADER_BYTES]):
                stream.unread(view[:got])  # the other end spreads its frames over streams already
                stream, got = attempt.await_elsewhere(rank, stream, header), HEADER_BYTES
                view[:HEADER_BYTES] = header
                continue
            if got >= HEADER_BYTES and view[:HEADER_BYTES] != header:
                stale = attempt.judge(stream.member, view[:HEADER_BYTES])
                stream.unread(view[HEADER_BYTES:got])
                stream.skip(stale.length)
                got = 0
            taken = stream.receive(view[got:need])
            got += taken
            if taken:
                attempt.moved()
                continue
            attempt.idle((rank,))
            if attempt.flows is not None:
                attempt.flows.serve()
            elif (other := attempt.elsewhere(rank, stream, header)) is not None:
                stream.unread(view[:got])
                stream, got = other, HEADER_BYTES
                view[:HEADER_BYTES] = header
    except BaseException:
        stream.unread(view[:got])
        raise
