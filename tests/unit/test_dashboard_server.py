"""The dashboard's server over real sockets: what it answers, what it refuses, whom it outlives, and that it ends."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import collcomm
from collcomm.dashboard import Dashboard, answers, feed, request, server
from collcomm.dashboard.request import Refused, parse_request
from collcomm.errors import CollcommError
from collcomm.health.finding import Syndrome

ROOT = Path(__file__).resolve().parents[2]
WAIT = 20.0
SNAPSHOT: dict[str, Any] = {"version": 1, "group": "run", "members": [], "rate": float("nan"), "nested": [float("inf")]}


class Source:
    """What a coordinator would give; ``broken``: it raises."""

    def __init__(self) -> None:
        self.broken = False
        self.asked: list[str | None] = []

    def snapshot(self, group: str | None) -> dict[str, Any] | None:
        self.asked.append(group)
        if self.broken:
            raise RuntimeError("no snapshot today")
        return SNAPSHOT if group in (None, "run", "a b&c") else None

    def groups(self) -> list[str]:
        return ["run", "a b&c"]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def dashboard(source: Source) -> Iterator[Dashboard]:
    with Dashboard("0", source.snapshot, source.groups) as running:
        yield running


def ask(
    dashboard: Dashboard, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(dashboard.address, timeout=WAIT)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def dial(dashboard: Dashboard) -> socket.socket:
    host, _, port = dashboard.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def raw(dashboard: Dashboard, data: bytes) -> bytes:
    """All that comes back until the server closes."""
    with dial(dashboard) as connection:
        connection.sendall(data)
        return _all(connection)


def _all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def listen(dashboard: Dashboard, path: str = "/api/stream?group=run") -> socket.socket:
    connection = dial(dashboard)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def until(connection: socket.socket, wanted: bytes) -> bytes:
    got = b""
    while wanted not in got:
        part = connection.recv(65536)
        assert part, f"the stream ended after {got[-200:]!r}"
        got += part
    return got


def eventually(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT / 0.01)):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it does not come true")


# ---- what it answers --------------------------------------------------------------------------------------------


def test_the_page_and_its_parts_come_with_their_types(dashboard: Dashboard) -> None:
    for path, kind in [("/", "text/html"), ("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")]:
        status, headers, body = ask(dashboard, path)
        assert status == 200 and headers["Content-Type"].startswith(kind) and body
    assert ask(dashboard, "/")[2] == ask(dashboard, "/index.html")[2]


def test_every_answer_carries_the_headers_that_keep_a_page_safe(dashboard: Dashboard) -> None:
    for path in ("/", "/api/groups", "/nothing", "/api/snapshot?group=none"):
        headers = ask(dashboard, path)[1]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer" and "Server" not in headers


def test_groups_and_snapshots_are_json_that_a_browser_can_read(dashboard: Dashboard, source: Source) -> None:
    assert json.loads(ask(dashboard, "/api/groups")[2]) == ["run", "a b&c"]
    status, headers, body = ask(dashboard, "/api/snapshot?group=a%20b%26c")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    found = json.loads(body, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == {**SNAPSHOT, "rate": None, "nested": [None]}
    assert ask(dashboard, "/api/snapshot")[0] == 200
    assert source.asked == ["a b&c", None]


def test_a_group_that_is_not_there_is_said_so(dashboard: Dashboard) -> None:
    status, _, body = ask(dashboard, "/api/snapshot?group=other")
    assert status == 404 and b"other" in body and b"/api/groups" in body


def test_metrics_are_there_if_somebody_makes_them(dashboard: Dashboard, source: Source) -> None:
    assert ask(dashboard, "/metrics")[0] == 404
    with Dashboard("0", source.snapshot, source.groups, metrics=lambda: b"collcomm_members 3\n") as another:
        status, headers, body = ask(another, "/metrics")
    assert (status, body) == (200, b"collcomm_members 3\n") and headers["Content-Type"].startswith("text/plain")


def test_a_source_that_fails_is_an_error_of_that_request_alone(dashboard: Dashboard, source: Source) -> None:
    source.broken = True
    status, _, body = ask(dashboard, "/api/snapshot")
    assert status == 500 and b"no snapshot today" not in body
    with listen(dashboard) as stream:
        until(stream, b"event: trouble\n")
        source.broken = False
        until(stream, b"event: snapshot\n")
    assert ask(dashboard, "/api/snapshot")[0] == 200


# ---- what it refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "X" * 500])
def test_only_get_is_answered(dashboard: Dashboard, method: str) -> None:
    status, headers, _ = ask(dashboard, "/", method)
    assert status == 405 and headers["Allow"] == "GET"


@pytest.mark.parametrize(
    "path",
    [
        *("/../server.py", "/..%2fserver.py", "/page/index.html", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/./"),
        *("/\\", "/dashboard.js/", "/dashboard.js%00", "/server.py", "/__init__.py", "/" + "a" * 4000),
    ],
)
def test_nothing_but_the_files_of_the_page_can_be_had(dashboard: Dashboard, path: str) -> None:
    answer = raw(dashboard, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert status_of(answer) == 404 and b"import" not in answer and b"root:" not in answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/2\r\nHost: localhost\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /api/snapshot?group=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /api/snapshot?group=" + b"g" * 300 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /?" + b"a=1&" * 30 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"c" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 3000, 431),
    ],
)
def test_bad_requests_are_refused_and_told_why(dashboard: Dashboard, head: bytes, status: int) -> None:
    answer = raw(dashboard, head)
    assert status_of(answer) == status and b"Content-Security-Policy" in answer
    assert ask(dashboard, "/api/groups")[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:80", 200), ("LOCALHOST:9", 200), ("ours.example", 200)),
        *(("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("localhost.evil.example:80", 421)),
    ],
)
def test_names_of_others_do_not_reach_it(source: Source, host: str, status: int) -> None:
    with Dashboard("0", source.snapshot, source.groups, names=["ours.example"]) as dashboard:
        assert ask(dashboard, "/api/groups", headers={"Host": host})[0] == status


def test_a_request_without_an_end_is_cut_off(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "HEAD_SECONDS", 0.2)
    with dial(dashboard) as dripping:
        dripping.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        assert ask(dashboard, "/api/groups")[0] == 200  # others are served meanwhile
        assert status_of(_all(dripping)) == 408


def test_whoever_says_nothing_is_forgotten(dashboard: Dashboard) -> None:
    for _ in range(3):
        dial(dashboard).close()
    eventually(lambda: dashboard._connections == 0)
    assert ask(dashboard, "/api/groups")[0] == 200


def test_connections_have_a_limit_and_it_comes_back(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 4)
    silent = [dial(dashboard) for _ in range(4)]
    eventually(lambda: dashboard._connections == 4)
    assert status_of(raw(dashboard, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")) == 503
    for connection in silent:
        connection.close()
    eventually(lambda: dashboard._connections == 0)
    assert ask(dashboard, "/api/groups")[0] == 200


# ---- streams ----------------------------------------------------------------------------------------------------


def test_a_stream_brings_snapshots_until_the_client_goes(dashboard: Dashboard, source: Source) -> None:
    with listen(dashboard, "/api/stream") as stream:
        got = until(stream, b'"group":"run"')
        assert b"text/event-stream" in got and b"event: snapshot\ndata: {" in got
        until(stream, b"event: snapshot")  # and another
    eventually(lambda: dashboard._connections == 0 and not dashboard._feeds)
    assert set(source.asked) == {None}


def test_a_stream_of_a_group_that_is_not_there_says_so(dashboard: Dashboard) -> None:
    with listen(dashboard, "/api/stream?group=other") as stream:
        assert b"event: snapshot" not in until(stream, b"event: absent\n")


def test_listeners_share_snapshots_and_have_a_limit(dashboard: Dashboard, source: Source) -> None:
    streams = [listen(dashboard) for _ in range(server.MOST_LISTENERS)]
    for stream in streams:
        until(stream, b"event: snapshot\n")
    asked = len(source.asked)
    assert asked < server.MOST_LISTENERS  # not each for itself
    with listen(dashboard) as late:
        answer = _all(late)
    assert status_of(answer) == 503 and b"/api/snapshot" in answer
    assert ask(dashboard, "/api/snapshot")[0] == 200
    for stream in streams:
        stream.close()
    eventually(lambda: dashboard._listeners == 0)
    with listen(dashboard) as stream:
        until(stream, b"event: snapshot\n")


def test_a_listener_that_reads_nothing_is_dropped_and_holds_nobody_up(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(feed, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setitem(SNAPSHOT, "ballast", "x" * (4 << 20))
    with Dashboard("0", source.snapshot, source.groups) as dashboard:
        with listen(dashboard):
            eventually(lambda: dashboard._listeners == 1)
            eventually(lambda: dashboard._listeners == 0)
            assert ask(dashboard, "/api/groups")[0] == 200


def test_whoever_asks_all_the_time_costs_no_more_than_a_stream(dashboard: Dashboard, source: Source) -> None:
    texts = {ask(dashboard, "/api/snapshot?group=run")[2] for _ in range(20)}
    assert len(texts) == 1 and len(source.asked) < 10  # a loaded machine may take some seconds for it


def test_snapshots_that_take_long_are_rarer(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = threading.Event()
    made = []

    def slow(group: str | None) -> dict[str, Any]:
        made.append(time.monotonic())
        pause.wait(0.05)
        return SNAPSHOT

    monkeypatch.setattr(feed, "INTERVAL_SECONDS", 0.001)
    with Dashboard("0", slow, source.groups) as dashboard, listen(dashboard) as stream:
        for _ in range(3):
            until(stream, b"event: snapshot\n")
    assert all(after - before > 0.4 for before, after in pairwise(made))


def test_silence_is_filled_with_heartbeats(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(feed, "INTERVAL_SECONDS", 60.0)
    with Dashboard("0", source.snapshot, source.groups) as dashboard, listen(dashboard) as stream:
        until(stream, feed.HEARTBEAT)


# ---- its end ----------------------------------------------------------------------------------------------------


def test_closing_ends_streams_and_leaves_no_thread(source: Source) -> None:
    dashboard = Dashboard("127.0.0.1:0", source.snapshot, source.groups)
    assert dashboard.address == ""
    dashboard.start()
    address = dashboard.address
    with listen(dashboard) as stream, dial(dashboard):
        until(stream, b"event: snapshot\n")
        dashboard.close()
        dashboard.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "collcomm-dashboard"]
        while stream.recv(65536):  # what was on its way, and the end
            pass
    with Dashboard(address, source.snapshot, source.groups) as again:  # the port is free at once
        assert again.address == address and ask(again, "/")[0] == 200


def test_an_address_that_is_taken_or_wrong_is_said_so(dashboard: Dashboard, source: Source) -> None:
    with pytest.raises(CollcommError, match=r"cannot listen on .*another port"):
        Dashboard(dashboard.address, source.snapshot, source.groups).start()
    with pytest.raises(CollcommError, match="an address of this machine"):
        Dashboard("203.0.113.7:0", source.snapshot, source.groups).start()
    with pytest.raises(ValueError, match="port"):
        Dashboard("somewhere", source.snapshot, source.groups)


def test_it_serves_ipv6(source: Source) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Dashboard("[::1]:0", source.snapshot, source.groups) as dashboard:
        assert dashboard.address.startswith("[::1]:") and ask(dashboard, "/api/groups")[0] == 200


def test_an_open_address_is_warned_of(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    with Dashboard("0.0.0.0:0", source.snapshot, source.groups):
        assert "open to whoever can reach it" in caplog.text
    caplog.clear()
    with Dashboard("0", source.snapshot, source.groups):
        assert "open to" not in caplog.text


# ---- parsing ----------------------------------------------------------------------------------------------------


def test_a_request_is_read_into_its_parts() -> None:
    parsed = parse_request(b"GET /api/snapshot?group=a%26b&x= HTTP/1.1\r\nhost: [2001:DB8::1]:80\r\nCookie: x\r\n\r\n")
    assert (parsed.path, parsed.group, parsed.host) == ("/api/snapshot", "a&b", "2001:db8::1")
    with pytest.raises(Refused):
        parse_request(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n")


def test_json_has_no_line_breaks_and_no_nan() -> None:
    encoded = answers.encode_json({"name": "two\nlines\u2028", "value": [1.5, float("-inf")]})
    assert b"\n" not in encoded and json.loads(encoded) == {"name": "two\nlines\u2028", "value": [1.5, None]}


# ---- the demo ---------------------------------------------------------------------------------------------------


def test_the_demo_serves_until_it_is_interrupted() -> None:
    command = [sys.executable, "-m", "collcomm.dashboard.demo", "--bind", "0", "--members", "5"]

    def heed_interrupts() -> None:
        """Shells have commands in the background ignore them, and whatever these start."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as demo:
        try:
            assert demo.stderr is not None
            address = demo.stderr.readline().removeprefix("dashboard: http://").rstrip("/\n")
            connection = http.client.HTTPConnection(address, timeout=WAIT)
            connection.request("GET", "/api/snapshot?group=demo")
            snapshot = json.loads(connection.getresponse().read())
            connection.close()
            demo.send_signal(signal.SIGINT)
            assert demo.wait(WAIT) == 0
        finally:
            demo.kill()
    assert len(snapshot["members"]) == 5 and len(snapshot["history"]) == 600
    assert {row["syndrome"] for row in snapshot["findings"]} <= {syndrome.value for syndrome in Syndrome}


@pytest.mark.parametrize(("host", "status"), [("board.example", 200), ("elsewhere.example", 421)])
def test_the_page_goes_by_the_names_that_it_is_given(host: str, status: int) -> None:
    names = ["Board.example"]
    with collcomm.Coordinator("127.0.0.1:0", dashboard="0", dashboard_names=names) as coordinator:
        assert coordinator.dashboard is not None
        connection = http.client.HTTPConnection(*coordinator.page.split(":"), timeout=10)
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()
