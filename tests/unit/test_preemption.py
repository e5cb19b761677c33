"""A signal becomes a flag: handlers, threads, grace, children; without any group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import collcomm
from collcomm import preemption

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 20.0
TERM, USR1, USR2 = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2


def test_a_signal_is_a_flag_and_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in (TERM, USR1)}
    with collcomm.on_preemption((TERM, USR1)) as leaving:
        assert not leaving and leaving.signal is None
        signal.raise_signal(USR1)
        assert leaving and leaving.signal == USR1 and leaving.seconds_left is None
        signal.raise_signal(TERM)  # at once: the same, handed on by somebody
        assert leaving.signal == USR1
    assert {number: signal.getsignal(number) for number in (TERM, USR1)} == before


def test_a_signal_that_comes_again_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "REPEAT_SECONDS", -1.0)
    with collcomm.on_preemption((USR1,)):
        signal.raise_signal(USR1)
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(USR1)
    assert ended.value.code == 128 + USR1


@pytest.mark.parametrize("chain", [True, False])
def test_the_users_own_handler_is_called_if_wanted(chain: bool) -> None:
    heard: list[int] = []
    own = signal.signal(USR2, lambda number, frame: heard.append(number))
    try:
        with collcomm.on_preemption((USR2,), chain=chain) as leaving:
            signal.raise_signal(USR2)
            assert leaving and heard == [USR2] * chain
    finally:
        signal.signal(USR2, own)


def test_a_handler_that_somebody_has_set_since_is_left_alone() -> None:
    before = signal.getsignal(USR1)
    try:
        with collcomm.on_preemption((USR1,)):
            signal.signal(USR1, signal.SIG_IGN)
        assert signal.getsignal(USR1) is signal.SIG_IGN
    finally:
        signal.signal(USR1, before)


def test_other_threads_ask() -> None:
    found: list[Any] = []

    def elsewhere() -> None:
        try:
            with collcomm.on_preemption():
                pass
        except ValueError as error:
            found.append(str(error))
        with collcomm.on_preemption(()) as leaving:
            found.append(bool(leaving))
            leaving.ask()
            found.append(bool(leaving))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(WAIT_SECONDS)
    assert "main thread only" in found[0] and found[1:] == [False, True]


@pytest.mark.parametrize("signals", [(signal.SIGKILL,), (0,), (4711,)])
def test_what_cannot_be_caught_is_refused(signals: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="can be caught"):
        collcomm.on_preemption(signals)


@pytest.mark.parametrize("grace", [0.0, -1.0, float("nan"), float("inf")])
def test_a_grace_period_is_some_seconds(grace: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        collcomm.on_preemption(grace=grace)


def test_a_grace_period_that_is_not_needed_leaves_no_thread() -> None:
    with collcomm.on_preemption((USR1,), grace=30.0) as leaving:
        signal.raise_signal(USR1)
        assert leaving.seconds_left is not None and 25 < leaving.seconds_left <= 30
    assert not [thread for thread in threading.enumerate() if thread.name == "collcomm-preemption"]


def test_without_a_safe_point_the_process_ends_when_the_grace_is_over() -> None:
    """Also when the main thread is in C code that holds the GIL for a while, or waits for ever."""
    source = (
        "import collcomm, signal, threading\n"
        "class Comm:\n"
        "    def resign(self, timeout): print('resigned', flush=True)\n"
        "with collcomm.on_preemption(grace=0.2) as leaving:\n"
        "    leaving.guard(Comm())\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    threading.Event().wait()\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (128 + TERM, "resigned\n")
    assert "no safe point came within the 0.2 s of grace" in done.stderr
    assert time.monotonic() - began < WAIT_SECONDS


def test_a_forked_child_ends_as_ever() -> None:
    """A loader of data, say, which is ended with SIGTERM."""
    (from_child, to_parent), (from_parent, to_child) = os.pipe(), os.pipe()
    with collcomm.on_preemption() as leaving:
        child = os.fork()
        if not child:
            os.close(to_child)
            os.write(to_parent, b"x")
            os.read(from_parent, 1)  # until the signal comes, or, if that does nothing, the parent's end closes
            os._exit(0)
        assert os.read(from_child, 1) == b"x"
        os.kill(child, TERM)
        for end in (from_child, to_parent, from_parent, to_child):
            os.close(end)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -TERM and not leaving
