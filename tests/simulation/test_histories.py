"""A thousand histories of a group under faults, and flaws that such histories must find.

A violation's text begins with the command that replays it: ``collcomm simulate --seed ...``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("greenlet", reason="the simulator's tasks are greenlets: pip install 'collcomm[simulate]'")


from collcomm.transports.window import BASE, COUNT, EPOCH

import collcomm.engine.group as engine_group
import collcomm.engine.incoming as incoming
import collcomm.engine.inline as inline
import collcomm.engine.windowplan as windowplan
import collcomm.engine.work as work
import collcomm.membership.views as membership_views
from collcomm.engine.operation import Operation
from collcomm.engine.progress import Progress
from collcomm.engine.windows import SharedWindows
from collcomm.membership.recovery import Recovery, Resumption
from collcomm.membership.round import Round
from collcomm.oneview import OneView
from collcomm.simulate import workload
from collcomm.simulate.command import run_batches
from collcomm.simulate.history import Options, Violation, live
from collcomm.simulate.ledger import Ledger
from collcomm.simulate.world import STORES
from collcomm.types import Call, GroupReport, Outcome

SEEDS = 1000
FLAW_SEEDS = 2000  # within that many a flaw must be found; it is within far fewer


def test_an_exchange_needs_no_room_between_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than connections take, sent both ways, over its own source: it goes on since each side takes a frame first."""
    monkeypatch.setattr(workload, "LONG_SHARE", 1.0)
    monkeypatch.setattr(workload, "LONG_ROWS", 30_000)  # two ranks exchange 240 KB by doubling
    monkeypatch.setattr(workload, "KINDS", ("all_reduce",))
    seeds = range(12)
    _live_all(seeds)
    monkeypatch.setattr(incoming.Receiver, "ready", property(_takes_nothing_early))
    with pytest.raises(Violation):
        _live_all(seeds)


def test_data_goes_through_small_windows_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "LONG_SHARE", 0.5)
    monkeypatch.setattr(windowplan, "SLOT_BYTES", 1 << 14)
    _live_all(range(200), peers=4, faults=8)


def test_codecs_under_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several operations that are one to the user: all survivors get the same of it, or none gets anything."""
    monkeypatch.setattr(workload, "KINDS", (workload.CODED, workload.CODED, "all_reduce", "sync", "split"))
    monkeypatch.setattr(workload, "LONG_SHARE", 0.5)
    _live_all(range(150), peers=4, faults=8)


def test_a_view_that_changes_within_a_coded_call_must_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes pieces of two views for one result is found out."""
    monkeypatch.setattr(workload, "KINDS", (workload.CODED,))
    monkeypatch.setattr(workload, "LONG_SHARE", 1.0)
    monkeypatch.setattr(OneView, "left", lambda self, view: False)
    with pytest.raises(Violation, match=r"is wrong|MalformedPayload"):
        _live_all(range(FLAW_SEEDS), peers=4, faults=8)


def _live_all(seeds: range, peers: int = 2, faults: int = 1) -> None:
    for seed in seeds:
        live(Options(seed, peers=peers, faults=faults))


def test_a_thousand_histories_break_no_promise() -> None:
    done = 0
    for finished, _, _, violation in run_batches(0, SEEDS, {}, jobs=2):
        assert not violation, violation
        done += finished
    assert done == SEEDS


@pytest.mark.campaign
@pytest.mark.timeout(4 * 3600)
def test_a_hundred_thousand_histories_break_no_promise() -> None:
    assert not [violation for *_, violation in run_batches(SEEDS, 100_000, {}, jobs=2) if violation]


def test_a_seed_replays_exactly_also_in_another_process() -> None:
    command = [sys.executable, "-m", "collcomm", "simulate", "--seed", "7"]
    there = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert there.splitlines()[:-1] == list(live(Options(7)).log) == list(live(Options(7)).log)


def test_the_histories_hold_what_they_are_meant_to_hold() -> None:
    """Guards the guard: deaths, recoveries, changes of the leader, verdicts and admissions do occur."""
    outlines = [live(Options(seed, store=store)) for seed in range(40) for store in STORES]
    outlines += [live(Options(seed, store="lease")) for seed in range(40, 200)]
    text = "\n".join(line for outline in outlines for line in outline.log)
    for word in ("crash p", "silent for", "died:", "left", "; new: ", "called something else", "is taken over"):
        assert word in text, word
    for word in ("does not lead any more", "is started again", "not heard of", "cut off"):
        assert word in text, word
    assert sum(outline.views for outline in outlines) > 2 * len(outlines)
    assert sum(outline.operations for outline in outlines) > 10 * len(outlines)


# ---- flaws ------------------------------------------------------------------------------------------------------


def _most_complete(round: Round, survivors: set[int], raise_on_loss: bool, floor: object) -> dict[int, Outcome]:
    """Keeps what some survivor could not finish."""
    gids = {gid for groups in round.states.values() for gid in groups}
    most = {gid: max(groups[gid].complete for groups in round.states.values() if gid in groups) for gid in gids}
    return {gid: Outcome(value, value) for gid, value in most.items()}


def _reports_and_goes_on(self: Progress) -> GroupReport:
    return GroupReport(self.complete, self.entered, self.view.ids)


def _first_report_is_enough(self: Round, survivors: Any) -> bool:
    return any(member in self.states for member in survivors) or not set(survivors)


def _no_commit_round(attempt: Any) -> None:
    """Returns what it has, without asking whether the others have it."""


def _no_round_in_windows(self: SharedWindows, attempt: Any) -> None:
    """As above; the count goes on, so that nobody waits for ever."""
    self._own.signal()
    self._done += 1
    self._loose = False


def _returns_among_the_frozen(self: SharedWindows, attempt: Any) -> None:
    """Does not look whether somebody has been told to halt."""
    if self._closing is None:
        self._round(attempt)


def _does_not_look_at_windows(self: SharedWindows, epoch: int) -> int:
    """What a halted peer was not told, it does not report."""
    return 0


def _has_no_result(self: SharedWindows) -> None:
    """Returns whatever it had when it was interrupted."""


def _begins_alone(self: SharedWindows, attempt: Any) -> None:
    """Enters a view without waiting until all others have left the one before."""
    self._own.words[BASE] = self._own.words[COUNT]
    self._own.words[EPOCH] = attempt.epoch
    self._own.signal()
    self._bases = [words[BASE] if words[EPOCH] == attempt.epoch else words[COUNT] for words in self._words]
    self._done = 1


def _says_what_it_is_in(self: Progress, seq: int) -> Call | None:
    """Whatever it is asked for."""
    return self.call if self.entered >= seq else None


def _no_restore(self: Operation) -> None:
    """What an aborted attempt wrote over the input stays."""


def _any_epoch(pack: Callable[..., bytes]) -> Callable[..., bytes]:
    """Frames that do not tell of which epoch they are."""
    return lambda kind, epoch, *rest: pack(kind, 0, *rest)


def _takes_nothing_early(self: Any) -> bool:
    """Both ends of an exchange wait until their own data has left before they read."""
    frames, following = self.incoming.frames, self.incoming.next
    return bool(self._got > 0 or following == len(frames) or self._work.ready(frames[following]))


_CONCLUDE = Recovery.conclude


def _waits_for_nobody(self: Recovery, now: float, grace: float) -> Resumption | None:
    """Goes on with whoever reports first."""
    return _CONCLUDE(self, now, 0.0) if self.record is not None else self._resume()


def _numbers_again(self: Recovery) -> Resumption:
    """Forgets which epochs halts have spoken of."""
    found = _RESUME(self)
    epoch = found.view["epoch"] if found.view else 0
    return Resumption(**{**found.__dict__, "next_epoch": epoch + 1})


_RESUME = Recovery._resume


@pytest.mark.parametrize(
    ("target", "name", "flaw", "store"),
    [
        (engine_group, "run_commit", _no_commit_round, ""),
        (SharedWindows, "_round", _no_round_in_windows, ""),
        (SharedWindows, "commit", _returns_among_the_frozen, ""),
        (SharedWindows, "freeze", _does_not_look_at_windows, ""),
        (SharedWindows, "catch_up", _has_no_result, ""),
        (SharedWindows, "open", _begins_alone, ""),
        (Operation, "restore", _no_restore, ""),
        ((inline, work), "pack", _any_epoch(inline.pack), ""),
        (membership_views, "decide", _most_complete, ""),
        (Progress, "halt", _reports_and_goes_on, ""),
        (Progress, "inquire", _says_what_it_is_in, ""),
        (Round, "complete", _first_report_is_enough, ""),
        (Recovery, "conclude", _waits_for_nobody, "memory"),
        (Recovery, "_resume", _numbers_again, "memory"),
    ],
    ids=[
        *("no commit round", "no round in windows", "returns among the frozen", "does not look", "no result"),
        *("begins a view alone", "inputs not kept", "no epoch in frames"),
        *(
            "most complete decides",
            "no freeze",
            "another call",
            "first report",
            "waits for nobody",
            "epochs used again",
        ),
    ],
)
def test_a_flaw_is_found(target: Any, name: str, flaw: Any, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in target if isinstance(target, tuple) else (target,):
        monkeypatch.setattr(place, name, flaw)
    for seed in range(FLAW_SEEDS):
        try:
            live(Options(seed, store=store))
        except Violation:
            return
    pytest.fail(f"{FLAW_SEEDS} histories went well in spite of it")


GAP = 1 << 16  # of epochs, where some may be unheard of


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("epoch", [2, 3 + GAP], ids=["in another view", "after one takeover already"])
def test_a_view_that_knows_nobody_of_the_last_one_ends_an_era(epoch: int, recorded: bool) -> None:
    """Without a record, that is outside of what is promised; with one, it is not."""
    ledger = Ledger(recorded)

    def announced(epoch: int, *ids: int) -> None:
        rows = [[number, f"p{number}", "h", 1, "", ""] for number in ids]
        ledger.announced("run", {"epoch": epoch, "members": rows, "outcomes": {}})

    announced(1, 1, 2, 3)
    announced(epoch, 3)
    ledger.ended("run", 7, 1, "alone", "p3")
    announced(2 + GAP, 1, 2)
    assert ledger.eras_ended == (not recorded)
    if recorded:
        with pytest.raises(AssertionError, match="p3 returned alone"):
            ledger.ended("run", 7, 1, "both", "p1")
    else:
        ledger.ended("run", 7, 1, "both", "p1")
        announced(3 + GAP, 1)
        announced(3 + GAP, 1)
        with pytest.raises(AssertionError, match="two views of epoch"):
            announced(3 + GAP, 2)
        assert ledger.eras_ended == 1
