"""The dashboard's page in a real browser: it follows a group that changes, trusts nobody's text, and outlives its coordinator.

Pictures are left in the directory that COLLCOMM_SCREENSHOTS names, if it does.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collcomm.dashboard import Dashboard, feed, server
from collcomm.dashboard.demo import Show
from collcomm.dashboard.scene import Scene
from collcomm.health.finding import CulpritKind, Syndrome
from tests.support.browser import Browser

NOW = 1_800_000_000.0
HOSTILE = '<img src=x onerror="document.hacked=1">'
RINGED = "document.querySelectorAll('.layer-halo path').length"
NODES = "document.querySelectorAll('#topology .node').length"
ROWS = "document.querySelectorAll('#members tbody tr').length"


class Stage:
    """Groups that a test changes while the page looks at them; ``scene`` is the first."""

    def __init__(self, *scenes: Scene):
        self.scenes = {scene.group: scene for scene in scenes}
        self.scene = scenes[0]
        self._lock = threading.Lock()

    def __enter__(self) -> Scene:
        self._lock.acquire()
        return self.scene

    def __exit__(self, *exc: object) -> None:
        self.scene.advance()
        self._lock.release()

    def snapshot(self, group: str | None) -> dict[str, Any] | None:
        with self._lock:
            scene = self.scene if group is None and self.scenes else self.scenes.get(group or "")
            return None if scene is None else scene.snapshot()

    def groups(self) -> list[str]:
        return list(self.scenes)

    def dashboard(self, bind: str = "0") -> Dashboard:
        return Dashboard(bind, self.snapshot, self.groups)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    monkeypatch.setattr(feed, "INTERVAL_SECONDS", 0.1)
    chromium.size(1440, 1000)
    chromium.scheme("light")
    chromium.open("about:blank")
    chromium.complaints.clear()
    chromium.requests.clear()
    yield chromium
    chromium.open("about:blank")


def staged(members: int = 8, **arguments: Any) -> Stage:
    scene = Scene(NOW, members, **arguments)
    for _ in range(60):
        scene.advance()
    return Stage(scene)


def opened(browser: Browser, dashboard: Dashboard, where: str = "") -> None:
    browser.open(f"http://{dashboard.address}/{where}")
    browser.until("document.body.dataset.at")


def keep(browser: Browser, folder: Path, name: str) -> Path:
    path = folder / f"{name}.png"
    browser.screenshot(path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000
    if kept := os.environ.get("COLLCOMM_SCREENSHOTS"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
    return path


def text(browser: Browser, selector: str) -> str:
    return str(browser.value(f"document.querySelector({selector!r})?.textContent ?? ''"))


def clean(browser: Browser, dashboard: Dashboard) -> None:
    """No complaint, and nothing asked of anybody else."""
    assert browser.complaints == []
    strangers = [url for url in browser.requests if not url.startswith((f"http://{dashboard.address}/", "about:"))]
    assert strangers == []


# ---- what it shows ----------------------------------------------------------------------------------------------


def test_a_group_is_shown_whole(browser: Browser, tmp_path: Path) -> None:
    stage = staged()
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        browser.until("document.querySelector('#connection').dataset.mode === 'live'")
        assert [browser.value(what) for what in (NODES, RINGED, ROWS)] == [8, 8, 8]
        assert browser.value("document.querySelectorAll('.layer-links path').length") == 28  # both directions are one
        assert text(browser, "#group-name") == "demo" and text(browser, "#tile-members dd") == "8"
        assert "8 hosts, 2 sites" in text(browser, "#tile-members") and "MB/s" in text(browser, "#tile-throughput")
        assert text(browser, "#findings .empty").startswith("Nothing has been found")
        for chart in ("throughput", "operations"):
            assert browser.value(f"document.querySelector('#{chart} .line').getAttribute('d').length") > 200
        assert "demo" in browser.value("document.title")
        colours = browser.value(
            "(() => { const canvas = document.querySelector('canvas'), pen = canvas.getContext('2d');"
            "const data = pen.getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();"
            "for (let i = 0; i < data.length; i += 64) if (data[i + 3]) seen.add(data[i] + ',' + data[i + 1]);"
            "return seen.size; })()"
        )
        assert colours > 4
        keep(browser, tmp_path, "8-light")
        browser.scheme("dark")
        browser.until("getComputedStyle(document.body).backgroundColor === 'rgb(13, 17, 23)'")
        keep(browser, tmp_path, "8-dark")
        clean(browser, dashboard)


def test_members_come_and_go(browser: Browser) -> None:
    stage = staged(3, sites=1)
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        assert browser.value(NODES) == 3
        with stage as scene:
            scene.join("newcomer")
        browser.until(f"{NODES} === 4 && {ROWS} === 4 && {RINGED} === 4")
        browser.until("document.querySelector('#members').textContent.includes('newcomer')")
        assert text(browser, "#tile-epoch dd") == "2"
        browser.until("document.querySelector('.mark .glyph-joined')")
        with stage as scene:
            scene.part(scene.members[0].id)
            scene.pending = 2
        browser.until(f"{NODES} === 3 && {ROWS} === 3")
        browser.until("document.querySelector('.mark .glyph-died')")
        assert "lab-1 died: its connections broke" in text(browser, "#events")
        assert text(browser, "#tile-pending dd") == "2"
        clean(browser, dashboard)


def test_a_finding_is_named_marked_and_over(browser: Browser, tmp_path: Path) -> None:
    stage = staged()
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        with stage as scene:
            one, two, last = (scene.members[index] for index in (1, 2, -1))
            link = scene.find(
                Syndrome.COMMUNICATION_SLOW,
                CulpritKind.LINK,
                (one.id, two.id),
                "12.9 MB/s where 118 are usual",
                "the ring is led around it",
            )
            rank = scene.find(Syndrome.NON_COMMUNICATION_SLOW, CulpritKind.RANK, (last.id,), "all wait for it")
        browser.until("document.querySelectorAll('#findings li.open').length === 2")
        said = text(browser, "#findings ol")
        assert f"link {one.name} → {two.name}" in said and "12.9 MB/s where 118 are usual" in said
        assert "93% sure" in said and "4.2\u00d7 as long as usual" in said and "the ring is led around it" in said
        assert browser.value("document.querySelectorAll('.link.sick').length") == 1
        assert browser.value("document.querySelector('.node.sick .name').textContent") == last.name
        assert browser.value("document.querySelector('tr.sick th').textContent") == last.name
        assert browser.value("document.querySelectorAll('.bar.open').length") == 2
        assert browser.value("document.title").startswith("2 findings") and text(browser, "#tile-findings dd") == "2"
        assert browser.value("document.querySelector('tbody tr').cells[4].textContent") == "waiting"
        assert last.name in browser.value("document.querySelector('tbody tr').cells[6].textContent")
        keep(browser, tmp_path, "8-findings")
        with stage as scene:
            scene.end(link)
            scene.end(rank)
        browser.until("document.querySelectorAll('#findings li.ended').length === 2")
        assert browser.value("document.querySelector('.sick:not(.swatch)')") is None
        assert "lasted 1 s" in text(browser, "#findings li") and text(browser, "#tile-findings dd") == "0"
        assert browser.value("document.querySelectorAll('.bar.ended').length") == 2
        clean(browser, dashboard)


def test_a_pointer_on_links_cells_and_marks_is_told_more(browser: Browser) -> None:
    stage = staged()
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        place = browser.value(
            "(() => { const path = document.querySelector('.layer-hits path'), svg = path.ownerSVGElement;"
            "const at = path.getPointAtLength(path.getTotalLength() * 0.5).matrixTransform(path.getScreenCTM());"
            "return [at.x, at.y]; })()"
        )
        browser.point(*place)
        browser.until("!document.querySelector('#tip').hidden")
        told = text(browser, "#tip")
        assert told.count("→") == 2 and "MB/s" in told and " ms" in told and "measured" in told
        browser.value("document.querySelector('canvas').scrollIntoView({block: 'center'})")
        box = browser.value(
            "(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return [b.right, b.top]; })()"
        )
        browser.point(box[0] - 20, box[1] + 40)
        browser.until("document.querySelector('#tip').textContent.includes('latency')")
        assert "bandwidth" in text(browser, "#tip")
        browser.point(5, 5)
        browser.until("document.querySelector('#tip').hidden")
        before = text(browser, "#matrix .legend")
        browser.value("document.querySelector('input[value=bandwidth]').click()")
        assert "MB/s" in text(browser, "#matrix .legend") and "MB/s" not in before
        with stage as scene:
            scene.join("latecomer")
        browser.until("document.querySelector('.mark .glyph-joined')")
        browser.value(
            "document.querySelector('.mark .glyph-joined').parentElement.dispatchEvent(new MouseEvent('click'))"
        )
        assert "latecomer joined" in text(browser, "#details")
        clean(browser, dashboard)


def test_it_can_be_used_with_the_keyboard_alone(browser: Browser) -> None:
    stage = staged(4)
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        for _ in range(12):
            browser.press("Tab")
            if browser.value("document.activeElement.classList.contains('node')"):
                break
        assert "rank" in browser.value("document.activeElement.getAttribute('aria-label')")
        browser.until("!document.querySelector('#tip').hidden")
        browser.press("Enter")
        browser.until("document.querySelectorAll('.node.selected').length === 1")
        assert browser.value("document.querySelectorAll('tr[aria-selected]').length") == 1
        browser.press("Escape")
        browser.until("document.querySelectorAll('.node.selected').length === 0")
        browser.value("document.querySelector('canvas').focus()")
        browser.press("ArrowRight")
        browser.press("ArrowRight")
        assert "latency" in text(browser, "#matrix .spoken[role=status]")
        browser.value(
            "[...document.querySelectorAll('thead button')].find((head) => head.textContent === 'Name').click()"
        )
        names = "[...document.querySelectorAll('tbody th')].map((cell) => cell.textContent)"
        assert browser.value(names) == ["lab-1", "lab-2", "lab-3", "lab-4"]
        assert browser.value("document.querySelector('[aria-sort]').textContent") == "Name"
        clean(browser, dashboard)


def test_everything_that_can_be_used_has_a_name(browser: Browser) -> None:
    with staged().dashboard() as dashboard:
        opened(browser, dashboard)
        browser.call("Accessibility.enable")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        wanted = {"button", "combobox", "radio", "image", "img", "region", "figure", "group"} - {"figure", "group"}
        named = [node for node in nodes if node["role"]["value"] in wanted and not node["ignored"]]
        assert len(named) > 20
        assert [node["role"]["value"] for node in named if not node.get("name", {}).get("value")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Browser, scheme: str) -> None:
    """A contrast of 4.5 and more, as WCAG AA has it."""
    with staged().dashboard() as dashboard:
        browser.scheme(scheme)
        opened(browser, dashboard)

        def luminance(name: str) -> float:
            value = browser.value(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
            parts = [int(value[at : at + 2], 16) / 255 for at in (1, 3, 5)]
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        on_panels = ["ink", "muted", "bad", "good", "warn", "accent", *(f"site-{number}" for number in range(1, 7))]
        pairs = [(name, "panel") for name in on_panels]
        pairs += [("muted", "quiet"), ("ink", "quiet"), ("muted", "bad-soft"), ("ink", "bad-soft"), ("bad", "bad-soft")]
        for front, back in pairs:
            low, high = sorted((luminance(front), luminance(back)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{front} on {back}"


def test_figures_are_readable(browser: Browser) -> None:
    with staged().dashboard() as dashboard:
        opened(browser, dashboard)
        calls = {
            "rate(118e6)": "118 MB/s",
            "rate(999.9)": "1.00 kB/s",
            "rate(null)": "\u2013",
            "bytes(16777216)": "16.0 MiB",
            "span(0.000045)": "45 µs",
            "span(0.00082)": "820 µs",
            "span(0.0764)": "76.4 ms",
            "span(3)": "3 s",
            "span(7500)": "2 h 5 min",
            "ago(0.3)": "now",
            "perSecond(NaN)": "\u2013",
            "short('a'.repeat(40), 5)": "aaaa…",
        }
        for call, wanted in calls.items():
            assert browser.value(f"import('/format.js').then((format) => format.{call})") == wanted, call


def test_what_stays_the_same_stays_in_place(browser: Browser) -> None:
    """Its times are worked out anew for each snapshot, and differ in the last digits."""
    stage = staged(3)
    with stage as scene:
        scene.join()
    number = 0

    def snapshot(group: str | None) -> dict[str, Any] | None:
        nonlocal number
        number += 1
        shown = stage.snapshot(group)
        assert shown is not None
        events = [{**event, "at": event["at"] + number * 1e-6} for event in shown["events"]]
        return {**shown, "at": shown["at"] + number * 1e-3, "events": events}

    with Dashboard("0", snapshot, stage.groups) as dashboard:
        opened(browser, dashboard)
        kept = "[...document.querySelectorAll('.mark, #events li, .node, tbody tr')]"
        browser.value(
            f"{kept}.forEach((element) => {{ element.known = true; }}), window.before = document.body.dataset.at"
        )
        browser.until("document.body.dataset.at !== before")
        assert browser.value(f"{kept}.length") > 12 and browser.value(f"{kept}.every((element) => element.known)")
        clean(browser, dashboard)


# ---- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "nodes"), [(64, 64), (300, 38)])
def test_large_groups_stay_readable(browser: Browser, tmp_path: Path, members: int, nodes: int) -> None:
    stage = staged(members, per_host=8, sites=2)
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        browser.until(f"{NODES} > 1")
        assert browser.value(NODES) == nodes
        assert ("a node is a host" in text(browser, "#topology .note")) == (nodes < members)
        assert browser.value(ROWS) == min(members, 256)
        for scheme in ("light", "dark"):
            browser.scheme(scheme)
            keep(browser, tmp_path, f"{members}-{scheme}")
        clean(browser, dashboard)


def test_what_a_snapshot_lacks_is_said_and_missed_by_nobody(browser: Browser) -> None:
    scene = staged(4).scene
    full = scene.snapshot()
    bare = {"version": 1, "at": NOW, "group": "bare", "epoch": 7, "members": full["members"], "state": "recovering"}
    shown = {
        "bare": {**bare, "left_out": ["links", "history"]},
        "nothing": {"at": NOW, "members": [{"id": 1}, {"id": 2}]},
    }
    with Dashboard("0", lambda group: shown.get(group or "bare"), lambda: list(shown)) as dashboard:
        opened(browser, dashboard)
        assert browser.value(NODES) == 4 and "recovering" in text(browser, "#tile-epoch")
        assert "without links, history" in text(browser, "#time")
        assert not browser.value("document.querySelector('#matrix .empty').hidden")
        opened(browser, dashboard, "#nothing")
        browser.until(f"{NODES} === 2 && {ROWS} === 2")
        clean(browser, dashboard)


@pytest.mark.parametrize(("members", "sites"), [(3, 3), (5, 2), (8, 2), (9, 2), (10, 3), (20, 4)])
def test_names_of_sites_stand_beside_those_of_members(browser: Browser, members: int, sites: int) -> None:
    with staged(members, sites=sites).dashboard() as dashboard:
        opened(browser, dashboard)
        touching = browser.value(
            "(() => { const names = [...document.querySelectorAll('.node .name')].map((name) => [name, name.getBBox()]);"
            "return [...document.querySelectorAll('.site-title')].flatMap((title) =>"
            "[...Array(title.getNumberOfChars()).keys()].map((at) => title.getExtentOfChar(at)).flatMap((a) =>"
            "names.filter(([, b]) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height)"
            ".map(([name]) => `${title.textContent} ${name.textContent}`))); })()"
        )
        assert browser.value("document.querySelectorAll('.site-title').length") == sites
        assert touching == []
        clean(browser, dashboard)


@pytest.mark.parametrize("members", [0, 1, 2])
def test_small_groups_are_no_exception(browser: Browser, tmp_path: Path, members: int) -> None:
    with staged(members).dashboard() as dashboard:
        opened(browser, dashboard)
        assert [browser.value(NODES), browser.value(ROWS)] == [members, members]
        assert browser.value("document.querySelector('#topology .empty').hidden") == (members > 0)
        keep(browser, tmp_path, f"{members}-light")
        clean(browser, dashboard)


@pytest.mark.parametrize("width", [800, 1180, 1440, 1920, 2560])
def test_no_width_is_too_narrow_and_nothing_jumps(browser: Browser, tmp_path: Path, width: int) -> None:
    stage = staged()
    with stage.dashboard() as dashboard:
        browser.size(width, 1100)
        opened(browser, dashboard)
        browser.value(
            "window.moved = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) => moved += entry.value))"
            ".observe({type: 'layout-shift'}); 0"
        )
        with stage as scene:
            for member in scene.members[:3]:
                scene.find(Syndrome.NON_COMMUNICATION_SLOW, CulpritKind.RANK, (member.id,), "all wait for it " * 20)
            scene.join("somebody-with-quite-a-long-name")
            scene.pending = 12
        browser.until(f"{NODES} === 9")
        browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        assert browser.value("moved") < 0.02
        assert browser.value("document.documentElement.scrollWidth") <= width
        keep(browser, tmp_path, f"width-{width}")
        clean(browser, dashboard)


# ---- whom it does not trust -------------------------------------------------------------------------------------


def test_names_of_strangers_stay_text(browser: Browser, tmp_path: Path) -> None:
    stage = staged(3, group=HOSTILE)
    with stage as scene:
        scene.pending = 1
        names = [
            HOSTILE,
            '"><script>document.hacked=2</script>',
            "\u202e" + "x" * 5000,
            "${document.hacked=3}",
            "javascript:1",
        ]
        ids = [scene.join(name) for name in names]
        scene.members[0].site = f"'{HOSTILE}"
        scene.members[1].host = HOSTILE
        scene.members[2].state = f'silent" {HOSTILE}'
        scene.find(Syndrome.CORRUPTION, CulpritKind.LINK, (ids[0], ids[1]), HOSTILE * 3, HOSTILE)
        scene.find(Syndrome.COMMUNICATION_SLOW, CulpritKind.SENDER, (ids[2],), "<b>evidence</b>")
        scene.events.append(
            {"at": scene.at, "kind": HOSTILE, "member": None, "name": HOSTILE, "text": f"<svg/onload=1>{HOSTILE}"}
        )
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        browser.until(f"{ROWS} === 8 && document.querySelectorAll('#findings li.open').length === 2")
        assert HOSTILE in text(browser, "#findings ol") and HOSTILE in text(browser, "#events")
        assert text(browser, "#group-name") == HOSTILE
        for selector in ("#topology .node", "#members tbody tr", ".mark", ".bar"):  # all that a tip may say
            browser.value(
                f"document.querySelectorAll({selector!r}).forEach((element) => {{"
                "element.dispatchEvent(new PointerEvent('pointerenter')); element.dispatchEvent(new PointerEvent('pointermove'));"
                "element.dispatchEvent(new MouseEvent('click')); }); 0"
            )
        browser.until("document.querySelector('#tip').textContent.length > 0")
        assert browser.value("document.hacked ?? 0") == 0
        assert browser.value("document.images.length") == 1 and browser.value("document.scripts.length") == 1
        assert browser.value("document.querySelectorAll('main b, main img, main script').length") == 0
        assert browser.value("document.documentElement.scrollWidth") <= 1440
        keep(browser, tmp_path, "hostile")
        clean(browser, dashboard)
        assert not [url for url in browser.requests if url.endswith("/x")]
        seen = browser.value("document.body.innerText + document.title")
        assert (
            "\u202e" not in seen and "x" * 1000 not in seen
        )  # nor does it turn its surroundings around, or push them away


def test_the_page_could_not_run_what_it_is_told_even_by_mistake(browser: Browser) -> None:
    with staged(2).dashboard() as dashboard:
        opened(browser, dashboard)
        for attempt in ("body.innerHTML = '<b>x</b>'", "body.setAttribute('onclick', 'document.hacked = 1')"):
            tried = f"(() => {{ try {{ document.{attempt}; }} catch (error) {{ return error.name; }} }})()"
            assert browser.value(tried) == "TypeError", attempt


# ---- its connection ---------------------------------------------------------------------------------------------


def test_it_says_that_the_coordinator_is_gone_and_finds_it_again(browser: Browser, tmp_path: Path) -> None:
    stage = staged(3)
    first = stage.dashboard()
    first.start()
    try:
        opened(browser, first)
        browser.until("document.querySelector('#connection').dataset.mode === 'live'")
        clean(browser, first)
    finally:
        first.close()
    browser.until("document.querySelector('#connection').dataset.mode === 'gone'")
    browser.until("/coordinator gone, trying again in \\d+ s/.test(document.querySelector('#connection').textContent)")
    assert browser.value(NODES) == 3  # what was known last stays, and is shown as old
    assert browser.value("document.body.classList.contains('stale')")
    browser.until("getComputedStyle(document.querySelector('main')).opacity < 0.6")
    keep(browser, tmp_path, "gone")
    with stage as scene:
        scene.join("meanwhile")
    with stage.dashboard(first.address) as again:
        browser.until("document.querySelector('#connection').dataset.mode === 'live'")
        browser.until(f"{NODES} === 4 && !document.body.classList.contains('stale')")
        assert [complaint for complaint in browser.complaints if "net::ERR" not in complaint] == []
        assert all(url.startswith((f"http://{again.address}/", "about:")) for url in browser.requests)


def test_without_a_stream_it_asks(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_LISTENERS", 0)
    stage = staged(3)
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        browser.until("document.querySelector('#connection').dataset.mode === 'polling'")
        with stage as scene:
            scene.join()
        browser.until(f"{NODES} === 4")


def test_a_group_that_begins_later_appears(browser: Browser, tmp_path: Path) -> None:
    stage = Stage(Scene(NOW, 3))
    scenes, stage.scenes = stage.scenes, {}
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        assert browser.value(NODES) == 0 and text(browser, "#group-name") == "no group yet"
        keep(browser, tmp_path, "no-group")
        stage.scenes = scenes
        browser.until(f"{NODES} === 3")
        assert text(browser, "#group-name") == "demo"


def test_one_of_several_groups_is_chosen_and_remembered(browser: Browser) -> None:
    stage = Stage(Scene(NOW, 3, group="one"), Scene(NOW, 5, group="two & more"))
    with stage.dashboard() as dashboard:
        opened(browser, dashboard)
        browser.until("!document.querySelector('#group').hidden")
        assert browser.value(NODES) == 3
        browser.value(
            "(() => { const choice = document.querySelector('#group'); choice.value = 'two & more';"
            "choice.dispatchEvent(new Event('change')); })()"
        )
        browser.until(f"{NODES} === 5")
        browser.call("Page.reload")
        browser.until(f"document.readyState === 'complete' && {NODES} === 5")
        browser.until("document.querySelector('#group').value === 'two & more'")
        clean(browser, dashboard)


# ---- the demo ---------------------------------------------------------------------------------------------------


def test_the_demo_has_everything_to_look_at(browser: Browser, tmp_path: Path) -> None:
    clock = [NOW]
    show = Show(clock=lambda: clock[0])
    with Dashboard("0", show.snapshot, lambda: ["demo"]) as dashboard:
        opened(browser, dashboard)
        browser.until("document.querySelectorAll('.mark').length > 3")
        assert browser.value("document.querySelectorAll('#findings li').length") >= 3
        for _ in range(120):  # until something is wrong: the story has a fault in most of its minutes
            clock[0] += 1.0
            snapshot = show.snapshot(None)
            assert snapshot is not None
            if any(finding["ended"] is None for finding in snapshot["findings"]):
                break
        browser.until("document.querySelectorAll('#findings li.open').length === 1")
        keep(browser, tmp_path, "demo")
        clean(browser, dashboard)
