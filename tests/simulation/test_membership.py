"""Thousands of histories of one group under faults: the promises hold after each event, and peers get on at the end.

A failing seed stands in the text of the failure; `python -m tests.simulation.test_membership SEED` replays it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import collcomm.membership.group as group_module
from collcomm.engine.progress import Progress
from collcomm.membership.round import Round
from collcomm.types import GroupReport, Outcome
from tests.simulation.peer import Operation, SimPeer
from tests.simulation.world import BLIPS, FAULTS, World

SEEDS = 600
BATCH = 50
FAULT_SECONDS = 6.0
PATIENCE_SECONDS = 60.0  # simulated
OPERATIONS = 2


def live(seed: int, faults: tuple[str, ...] = FAULTS) -> World:
    """One history. Raises AssertionError with the seed and what has happened."""
    world = World(seed, faults)
    try:
        world.cause_faults(FAULT_SECONDS)
        world.settle(PATIENCE_SECONDS, OPERATIONS)
    except AssertionError as error:
        raise AssertionError("\n".join([f"seed {seed}: {error}", *world.log])) from error
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_views_agree_and_operations_end_alike(first: int) -> None:
    for seed in range(first, first + BATCH):
        live(seed)


def test_a_seed_replays_exactly() -> None:
    first, second = live(7), live(7)
    assert first.log == second.log
    assert first.ledger.fates == second.ledger.fates


@pytest.mark.parametrize("first", range(0, 100, BATCH))
def test_lost_control_messages_break_no_promise(first: int) -> None:
    """Whatever is lost on the lines to the coordinator: nobody is told another view or result than the others."""
    for seed in range(first, first + BATCH):
        world = World(seed, BLIPS)
        world.cause_faults(FAULT_SECONDS)
        world.run_until(world.now + 6.0)


@pytest.mark.parametrize("seed", [10, 15, 40])
def test_lost_control_messages_are_said_again(seed: int) -> None:
    live(seed, BLIPS)


def test_the_histories_hold_what_they_are_meant_to_hold() -> None:
    """Guards the guard: deaths, links made anew, verdicts, admissions and retries do occur."""
    worlds = [live(seed) for seed in range(60)]
    text = "\n".join(line for world in worlds for line in world.log)
    for word in ("crash", "silent for", "died:", "left", "keeps breaking", "; new: ", "called something else"):
        assert word in text, word
    fates = {fate for world in worlds for fate, _ in world.ledger.fates.values()}
    assert {"mismatch", "timeout", "lost"} <= fates
    assert any(isinstance(fate, tuple) and len(fate[1]) > 2 for fate in fates)
    assert sum(len(world.ledger.views) for world in worlds) > 3 * len(worlds)


# ---- what the simulation must find ------------------------------------------------------------------------------


def _most_complete(round: Round, survivors: set[int], raise_on_loss: bool, floor: object) -> dict[int, Outcome]:
    """Keeps what some survivor could not finish."""
    most = max((groups[0].complete for groups in round.states.values() if 0 in groups), default=0)
    return {0: Outcome(most, most)}


def _nothing_decided(round: Round, survivors: set[int], raise_on_loss: bool, floor: object) -> dict[int, Outcome]:
    """Runs again what somebody may have returned."""
    least = min((groups[0].complete for groups in round.states.values() if 0 in groups), default=0)
    return {0: Outcome(max(least - 1, 0), max(least - 1, 0))}


def _reports_after_the_fact(self: Progress) -> GroupReport:
    """Reports, and goes on."""
    return GroupReport(self.complete, self.entered, self.view.ids)


def _first_report_is_enough(self: Round, survivors: Iterable[int]) -> bool:
    return any(member in self.states for member in survivors) or not set(survivors)


_FINISH = SimPeer._finish


def _returns_when_done_itself(self: SimPeer, operation: Operation, epoch: int) -> None:
    """Does not wait to hear that all the others are complete."""
    _FINISH(self, operation, epoch)
    if operation is self._operation and operation.value is not None:
        self._commit(operation)


def _one_seed_fails(seeds: int = 150) -> bool:
    for seed in range(seeds):
        try:
            live(seed)
        except (AssertionError, KeyError):  # a promise broken, or a machine that trips over the consequence
            return True
    return False


@pytest.mark.parametrize(
    ("target", "name", "flaw"),
    [
        (group_module, "decide", _most_complete),
        (group_module, "decide", _nothing_decided),
        (Progress, "halt", _reports_after_the_fact),
        (SimPeer, "_finish", _returns_when_done_itself),
        (Round, "complete", _first_report_is_enough),
    ],
    ids=["most complete", "nothing decided", "no freeze", "commit alone", "first report"],
)
def test_a_flaw_in_the_protocol_is_found(
    target: Any, name: str, flaw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, name, flaw)
    assert _one_seed_fails()


if __name__ == "__main__":
    print("\n".join(live(int(sys.argv[1])).log))
