"""The page over a coordinator and peers as users have them: what they do is what it shows."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import collcomm
from tests.dashboard.test_page import NODES, ROWS, keep, text
from tests.support.browser import Browser

WAIT_SECONDS = 30.0
NAMES = ("alpha", "beta", "gamma")


class Peer:
    """Reduces again and again, until it is told to leave."""

    def __init__(self, address: str, name: str):
        self._leaving = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(address, name), name=f"peer {name}", daemon=True)
        self._thread.start()

    def _run(self, address: str, name: str) -> None:
        try:
            with collcomm.join(address, group="live", name=name, min_size=len(NAMES), timeout=WAIT_SECONDS) as comm:
                while not self._leaving.is_set():
                    comm.all_reduce(np.ones(65536, np.float32))
                    self._leaving.wait(0.02)  # as long as others compute between two reductions
                    comm.step()
        except BaseException as error:
            self._error = error

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), f"{self._thread.name} does not leave"
        assert self._error is None, self._error


@contextmanager
def peers(address: str) -> Iterator[dict[str, Peer]]:
    running = {name: Peer(address, name) for name in NAMES}
    try:
        yield running
    finally:
        for peer in running.values():
            peer.leave()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        browser.size(1440, 1000)
        yield browser


def test_a_real_group_is_shown_as_it_works_and_as_somebody_leaves(
    browser: Browser, tmp_path: Path, over_tcp: None
) -> None:
    with collcomm.Coordinator("127.0.0.1:0", dashboard="0") as coordinator, peers(coordinator.address) as running:
        browser.open(f"http://{coordinator.page}/")
        browser.until(f"{NODES} === 3 && {ROWS} === 3")
        assert text(browser, "#group-name") == "live"
        cells = "[...document.querySelectorAll('#members tbody tr')].map((row) => row.cells[{}].textContent)"
        assert sorted(browser.value(cells.format(1))) == sorted(NAMES)
        assert (
            browser.value(cells.format(3)) == ["\u2013"] * 3
            and browser.value("document.querySelector('.site')") is None
        )
        browser.until(f"{cells.format(7)}.every((done) => Number(done.replaceAll(',', '')) > 10)")  # operations
        browser.until(f"{cells.format(9)}.every((sent) => /[kMG]B\\/s/.test(sent))")
        assert browser.value(f"{cells.format(14)}.every((heard) => heard === 'now')")
        browser.until("parseFloat(document.querySelector('#tile-operations dd').textContent) > 1")
        browser.until("(document.querySelector('#operations .line').getAttribute('d') ?? '').length > 20")
        browser.until("document.querySelector('.mark .glyph-joined') && document.querySelector('.mark .glyph-view')")
        keep(browser, tmp_path, "real")
        running["beta"].leave()
        browser.until(f"{NODES} === 2 && {ROWS} === 2 && document.querySelector('.mark .glyph-left')")
        assert "beta left" in " ".join(text(browser, "#events ol").split())
        with urllib.request.urlopen(f"http://{coordinator.page}/metrics", timeout=WAIT_SECONDS) as answer:
            assert b"collcomm_" in answer.read()
        assert browser.complaints == []
        assert all(url.startswith((f"http://{coordinator.page}/", "about:")) for url in browser.requests)
