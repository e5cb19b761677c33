"""What the survivors of an MPI job make of their reports; who drives openings and deaths is `tests/processes/test_mpi.py`."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from collcomm.transports.launchers import is_launched, survives_deaths

from collcomm.engine.mpi.decision import Report, decide, unpack_reports


def report(member: int, entered: int, complete: int, committed: int, **more: int) -> Report:
    return Report(member, more.pop("epoch", 1), more.pop("size", 3), entered, complete, committed, **more)


def test_reports_travel_as_bytes() -> None:
    sent = [report(0, 5, 4, 4, expired=1), report(7, 4, 4, 3, epoch=2, tardy=1)]
    assert unpack_reports(np.stack([one.packed() for one in sent])) == sent


def test_an_operation_complete_everywhere_has_succeeded() -> None:
    decision = decide([report(0, 5, 5, 4), report(1, 5, 5, 4)], raise_on_loss=True)
    assert (decision.decided, decision.consumed, decision.holder, decision.epoch) == (5, 5, -1, 2)


def test_an_operation_incomplete_somewhere_runs_again() -> None:
    decision = decide([report(0, 5, 5, 4), report(1, 5, 4, 4)], raise_on_loss=False)
    assert (decision.decided, decision.consumed) == (4, 4)


def test_or_fails_where_losses_are_raised() -> None:
    decision = decide([report(0, 5, 5, 4), report(1, 5, 4, 4)], raise_on_loss=True)
    assert (decision.decided, decision.consumed, decision.late) == (4, 5, False)


def test_nobody_dead_is_no_loss() -> None:
    decision = decide([report(0, 5, 4, 4, size=2), report(1, 5, 4, 4, size=2)], raise_on_loss=True)
    assert decision.consumed == 4


def test_what_one_has_returned_is_handed_to_the_others() -> None:
    decision = decide([report(0, 5, 4, 4), report(1, 6, 5, 5)], raise_on_loss=False)
    assert (decision.decided, decision.consumed, decision.holder) == (5, 5, 1)


def test_lack_of_time_fails_it_and_names_the_late() -> None:
    reports = [report(0, 5, 4, 4, expired=1), report(1, 5, 4, 4), report(2, 5, 4, 4, tardy=1)]
    decision = decide(reports, raise_on_loss=False)
    assert (decision.decided, decision.consumed, decision.late, decision.missing) == (4, 5, True, (2,))


def test_who_missed_a_decision_comes_to_the_same() -> None:
    """The first decision raised a loss for operation 5; one member acted on it and went on, the other did not hear."""
    acted = report(0, 6, 5, 5, epoch=2, failed=5)
    for behind in (report(1, 5, 4, 4), report(1, 5, 5, 4)):
        decision = decide([acted, behind], raise_on_loss=True)
        assert (decision.decided, decision.consumed, decision.late) == (4, 6, False)
        assert decision.epoch == 3


def test_every_reachable_pair_is_decided_alike_in_any_order() -> None:
    """Reports of two survivors around operation 5, all that the protocol allows: nothing returned is taken back."""
    states = [(4, 4, 4), (5, 4, 4), (5, 5, 4), (5, 5, 5), (6, 5, 5), (6, 6, 5)]
    for (a, b), raising in itertools.product(itertools.product(states, repeat=2), (False, True)):
        one, other = report(0, *a), report(1, *b)
        if abs(one.complete - other.complete) > 1 or abs(one.entered - other.entered) > 1:
            continue  # an opening ends nowhere before all have entered it
        decision = decide([one, other], raising)
        turned = decide([other, one], raising)
        assert replace(turned, holder=decision.holder) == decision
        assert decision.decided >= max(one.committed, other.committed)
        for mine in (one, other):
            assert mine.complete >= decision.decided or decision.holder >= 0


def test_launchers_are_recognised() -> None:
    assert (
        is_launched({"OMPI_COMM_WORLD_RANK": "0"})
        and is_launched({"PMIX_RANK": "3"})
        and is_launched({"PMI_RANK": "1"})
    )
    assert is_launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    assert not is_launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) and not is_launched({})
    assert survives_deaths({"OMPI_MCA_mpi_ft_enable": "1"}) and not survives_deaths({})
