"""Handles, and groups made of them, with the peers as threads: on any torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from collcomm import CommunicatorClosed, CoordinatorUnavailable, JoinRejected  # noqa: E402
from collcomm.torch import handles  # noqa: E402
from collcomm.torch.handles import HandleText, in_order, read  # noqa: E402
from collcomm.torch.reconfigure import ReconfigurableProcessGroup  # noqa: E402

SECONDS = 20.0
pytestmark = pytest.mark.timeout(90)


def handle(number: int, **fields: Any) -> HandleText:
    told = {"id": f"id-{number}", "host": "here", "who": f"pid {number}", "address": "127.0.0.1:1", "secret": None}
    return HandleText(**told | fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "7",
        '{"collcomm": 2}',
        '{"collcomm": 1, "id": "a"}',
        handle(0, address="nowhere").text(),
        handle(0, id=3).text(),
        handle(0, who="x" * 5000).text(),
        None,
    ],
)
def test_what_is_no_handle(text: Any) -> None:
    with pytest.raises(JoinRejected, match="is not a reconfigure handle of collcomm"):
        read(text)


def test_a_handle_as_text() -> None:
    assert read(handle(1, secret="s").text()) == handle(1, secret="s")
    assert json.loads(handle(1).text())["collcomm"] == 1


def test_order() -> None:
    """A list's is its own; a set's is the same everywhere."""
    given = [handle(number).text() for number in (2, 0, 1)]
    assert [each.id for each in in_order(given)] == ["id-2", "id-0", "id-1"]
    assert [each.id for each in in_order(set(given))] == ["id-0", "id-1", "id-2"]
    for wrong in ([], [given[0], given[0]]):
        with pytest.raises(JoinRejected):
            in_order(wrong)


@pytest.fixture
def groups() -> Iterator[list[ReconfigurableProcessGroup]]:
    made = [
        ReconfigurableProcessGroup(None, timedelta(seconds=SECONDS), torch.distributed.HashStore(), rank=rank, size=3)
        for rank in range(3)
    ]
    yield made
    together([group.shutdown for group in made])


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each returns or raises."""
    results: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        try:
            results[place] = calls[place]()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * SECONDS)
        assert not thread.is_alive()
    return results


def options(uuid: int, texts: list[str], seconds: float | None = None) -> Any:
    return SimpleNamespace(uuid=uuid, handles=texts, timeout=None if seconds is None else timedelta(seconds=seconds))


def reconfigure(groups: list[Any], uuid: int, seconds: float | None = None) -> list[Any]:
    asked = options(uuid, [group.get_reconfigure_handle() for group in groups], seconds)
    return together([lambda group=group: group.reconfigure(asked) for group in groups])


def totals(groups: list[Any]) -> list[float]:
    def one(group: Any) -> float:
        tensor = torch.ones(2)
        group.allreduce([tensor]).wait()
        return float(tensor[0])

    return together([lambda group=group: one(group) for group in groups])


def test_members_change(groups: list[Any]) -> None:
    with pytest.raises(CommunicatorClosed, match="has no members yet"):
        groups[0].allreduce([torch.ones(1)])
    assert [work.wait() for work in reconfigure(groups[::-1], 1)] == [True] * 3
    assert [(group.rank(), group.size()) for group in groups] == [(2, 3), (1, 3), (0, 3)]
    assert totals(groups) == [3.0] * 3
    reconfigure(groups[:2], 2)
    assert totals(groups[:2]) == [2.0] * 2
    groups[0].abort()
    reconfigure(groups, 3)
    assert totals(groups) == [3.0] * 3
    assert [(group.rank(), group.size()) for group in groups] == [(0, 3), (1, 3), (2, 3)]


def test_a_protected_coordinator(groups: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others than this host reach it, the handle carries a secret."""
    monkeypatch.setattr(handles, "LOOPBACK", "elsewhere")
    monkeypatch.setattr(handles, "_host", lambda store: "127.0.0.1")
    told = json.loads(groups[0].get_reconfigure_handle())
    assert len(told["secret"]) >= 32
    assert totals(reconfigure(groups, 1) and groups) == [3.0] * 3


def test_a_configured_secret_stays_at_home(groups: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLCOMM_SECRET", "a secret that everybody was started with")
    assert json.loads(groups[0].get_reconfigure_handle())["secret"] is None
    assert totals(reconfigure(groups, 1) and groups) == [3.0] * 3


def test_who_does_not_come(groups: list[Any]) -> None:
    """Whoever it is, the others say so; and a group of those who are left is a call away."""
    for missing in range(3):
        asked = options(missing, [group.get_reconfigure_handle() for group in groups], 1.0)
        left = groups[:missing] + groups[missing + 1 :]
        for error in together([lambda group=group: group.reconfigure(asked) for group in left]):
            assert isinstance(error, CoordinatorUnavailable) and f"have not come: rank {missing} (" in str(error)
        reconfigure(left, 10 + missing)
        assert totals(left) == [2.0] * 2


def test_the_first_is_gone(groups: list[Any]) -> None:
    asked = options(1, [group.get_reconfigure_handle() for group in groups], 1.0)
    groups[0].abort()
    for error in together([lambda group=group: group.reconfigure(asked) for group in groups[1:]]):
        assert isinstance(error, CoordinatorUnavailable) and "waiting for rank 0 (pid" in str(error)


def test_several_hosts_and_a_local_address(groups: list[Any]) -> None:
    groups[0].get_reconfigure_handle()
    own = groups[0]._offer.handle
    elsewhere = HandleText("x", "another host", "pid 1 on another", "10.0.0.1:1", None)
    with pytest.raises(JoinRejected, match="set COLLCOMM_ADVERTISE"):
        groups[0].reconfigure(options(1, [own.text(), elsewhere.text()]))


def test_after_the_end(groups: list[Any]) -> None:
    groups[0].shutdown()
    with pytest.raises(CommunicatorClosed, match="was destroyed"):
        groups[0].get_reconfigure_handle()


def test_other_arguments(groups: list[Any]) -> None:
    """All hear of it, although those who differ do not count the same."""
    texts = [group.get_reconfigure_handle() for group in groups]
    asked = [options(1, texts), options(1, texts), options(2, texts)]
    errors = together(
        [lambda group=group, opts=opts: group.reconfigure(opts) for group, opts in zip(groups, asked, strict=True)]
    )
    for error in errors:
        assert isinstance(error, JoinRejected) and "has come with another uuid" in str(error)
    reconfigure(groups, 3)
    assert totals(groups) == [3.0] * 3
