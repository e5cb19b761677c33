"""Every method while a peer is killed with a reduction in flight and a newcomer joins: all who are left hold the same bits."""

from __future__ import annotations

import pytest

from tests.support.lowcomm import AFTERWARDS, EVERY, MAKERS, live, live_async, run


def check(heard: list) -> None:
    ended = {said[1]: said for said in heard if said[0] == "ended"}
    assert set(ended) == {"p0", "p1", "p2", "newcomer"}, heard
    assert len({said[2] for said in ended.values()}) == 1, "they took different numbers of steps"
    assert len({said[4] for said in ended.values()}) == 1, "they hold different bits"
    (joined,) = [said for said in heard if said[0] == "joined"]
    assert joined[2] >= 2 * EVERY and ended["newcomer"][2] == joined[2] + AFTERWARDS


@pytest.mark.timeout(90)
@pytest.mark.parametrize("method", MAKERS)
def test_a_death_in_flight_and_a_newcomer(method: str, over_tcp: None) -> None:
    heard = run(method)
    check(heard)
    (joined,) = [said for said in heard if said[0] == "joined"]
    assert joined[3] == (method not in ("local SGD", "DiLoCo")), "in flight when it was admitted"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("method", ["one-step-delayed", "streaming"])
def test_the_same_where_failures_are_raised(method: str, over_tcp: None) -> None:
    """All survivors launch again what failed at all of them."""
    heard = run(method, on_failure="raise")
    check(heard)
    repeated = {said[5] for said in heard if said[0] == "ended" and said[1] != "newcomer"}
    assert len(repeated) == 1


@pytest.mark.timeout(90)
@pytest.mark.parametrize("method", ["CO2", "streaming"])
def test_the_same_in_asyncio(method: str) -> None:
    check(run(method, body=live_async))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("dies_at", range(2 * EVERY + 1, 3 * EVERY))
def test_a_fragment_in_flight_at_any_step_of_a_round(dies_at: int) -> None:
    check(run("streaming", body=live, dies_at=dies_at))
