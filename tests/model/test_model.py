"""The protocol keeps its promises in every state that a few peers and faults can reach; without one of its rules it does not.

The numbers of states stand in `docs/protocol.md` too. A different number says that the model has changed, nothing worse.
`python -m tests.model.explore faults=2 heirs=1 impatient=1` explores one configuration by hand.
"""

from __future__ import annotations

import pytest

from tests.model.explore import explore
from tests.model.protocol import Protocol

MEMORYLESS = Protocol(heirs=True, impatient=True)
RECORDED = Protocol(record=True, impatient=True)


def _with(base: Protocol, **changes: object) -> Protocol:
    return Protocol(**{**vars(base), **changes})  # type: ignore[arg-type]


KEPT = {  # these run in a minute, all together
    "no record": (MEMORYLESS, 81_023),
    "no record, halts name nobody, time-outs are faults": (Protocol(), 31_238),
    "durable record": (RECORDED, 149_261),
    "no record, a newcomer": (_with(MEMORYLESS, faults=1, newcomer=True), 12_910),
    "durable record, a former leader": (_with(RECORDED, faults=1, standby=True), 37_585),
    "durable record, a former leader, 2 peers": (_with(RECORDED, peers=2, operations=1, standby=True), 99_822),
}
KEPT_IN_LONG_RUNS = {
    "no record, 3 faults": (_with(MEMORYLESS, faults=3, impatient=False), 880_298),
    "no record, a newcomer, 2 faults": (_with(MEMORYLESS, newcomer=True), 542_255),
    "durable record, 3 faults": (_with(RECORDED, faults=3, operations=1), 680_194),
    "durable record, a former leader": (_with(RECORDED, impatient=False, standby=True, operations=1), 240_959),
}
BROKEN = {  # the rule that is left out, and what goes wrong
    "no commit round": (MEMORYLESS, "was returned, the survivors decide"),
    "max": (MEMORYLESS, "has returned 0 and completed 0"),
    "no epoch check": (MEMORYLESS, "was returned from view"),
    "a lower view": (MEMORYLESS, "stuck in different views"),
    "an epoch again": (MEMORYLESS, "is used twice"),
    "no majority": (MEMORYLESS, "is used twice"),
    "told at once": (_with(MEMORYLESS, newcomer=True, operations=0, impatient=False), "without having been halted"),
    "no fencing": (_with(RECORDED, peers=2, standby=True, operations=1), "is used twice"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_promises_hold_in_every_state(name: str) -> None:
    _check(*KEPT[name])


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KEPT_IN_LONG_RUNS)
def test_promises_hold_in_every_state_of_a_larger_world(name: str) -> None:
    _check(*KEPT_IN_LONG_RUNS[name])


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_is_needed(rule: str) -> None:
    base, wrong = BROKEN[rule]
    assert wrong in explore(_with(base, mutant=rule)).wrong


def test_halts_name_who_goes_on_for_a_reason() -> None:
    """A peer removed wrongly, a coordinator lost, a slow report: the removed one must not help to decide."""
    result = explore(Protocol(impatient=True))
    assert result.wrong == "operation 1 was returned, the survivors decide 0", result


def _check(protocol: Protocol, states: int) -> None:
    result = explore(protocol)
    assert not result.wrong, str(result)
    assert result.states == states, str(result)
    assert result.endings > 0
