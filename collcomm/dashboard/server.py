"""The dashboard's server: HTTP on one thread of its own, for a few people who look at a group.

Streams of asyncio rather than http.server: that one takes a thread for each listener, and its time limits are for single
reads, so that whoever sends a byte now and then keeps a thread for good. Here one thread serves all, each request has one
deadline, and a snapshot is encoded once for all listeners.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from ..errors import CollcommError
from ..transports.addresses import format_address, parse_address
from . import answers
from .answers import Answer, refusal
from .feed import Encoded, Feed, event
from .request import HEAD_BYTES, Refused, Request, is_literal, read_request

log = logging.getLogger("collcomm.dashboard")

LOOPBACK = "127.0.0.1"
MOST_CONNECTIONS = 64
MOST_LISTENERS = 32  # of these, streams; whoever comes later is told to ask again and again
WRITE_SECONDS = 10.0  # in which a client takes what it asked for, or one snapshot of a stream
LINGER_SECONDS, LINGER_BYTES = (
    1.0,
    65536,
)  # so much is still read from whom we refuse, lest the answer be lost in a reset
CLOSE_SECONDS = 5.0
LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain"})

Snapshot = dict[str, Any]


class Dashboard:
    """A page that shows groups, and what programs want to know of them, over HTTP.

    Nobody is asked who they are: whoever can reach the address sees names, addresses and figures (and can change nothing).

    :param bind: "HOST:PORT", or "PORT" of the loopback interface; port 0 takes a free one, see ``address``.
    :param snapshot: of a group, or of the first one (None), as `collcomm.health.snapshot` documents it; None when there
        is no such group.
    :param groups: their names. Both, and ``metrics``, are called in the server's thread, and return soon.
    :param metrics: what Prometheus reads; without it /metrics is not there.
    :param names: host names by which people may ask for this server, besides addresses, localhost, and this machine's own name.
    :raises ValueError: ``bind`` is no address.
    """

    def __init__(
        self,
        bind: str,
        snapshot: Callable[[str | None], Snapshot | None],
        groups: Callable[[], list[str]],
        metrics: Callable[[], bytes] | None = None,
        names: Iterable[str] = (),
    ):
        self._bind = parse_address(f"{LOOPBACK}:{bind}" if bind.isdigit() else bind)
        self._snapshot, self._groups, self._metrics = snapshot, groups, metrics
        self._encoded = Encoded(self._encode)
        self._names = LOCAL_NAMES | {name.lower() for name in (*names, self._bind[0], socket.gethostname())}
        self._files = answers.page_files()
        self._feeds: dict[str | None, Feed] = {}
        self._connections = self._listeners = 0
        self._address = ""
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None
        self._failing = False  # whether the last call of what we were given failed: said once

    @property
    def address(self) -> str:
        """ "host:port"; empty before `start`."""
        return self._address

    def start(self) -> None:
        """Raises `CollcommError` when the address cannot be bound."""
        host, port = self._bind
        listener = _listen(host, port)
        bound = listener.getsockname()
        self._address = format_address(bound[0], bound[1])
        if not _is_loopback(bound[0]):
            log.warning("the dashboard at %s is open to whoever can reach it: it asks for no password", self._address)
        running = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, running)), name="collcomm-dashboard", daemon=True
        )
        self._thread.start()
        running.wait(CLOSE_SECONDS)
        log.info("dashboard: http://%s/", self._address)

    def close(self) -> None:
        """Ends all streams. Calling it twice is harmless."""
        if self._thread is None:
            return
        self._stop()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.error("the dashboard's thread does not end: what makes its snapshots seems to hang")
        self._thread = None

    def __enter__(self) -> Dashboard:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- the server's thread ----------------------------------------------------------------------------------

    async def _serve(self, listener: socket.socket, running: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def told_to_stop() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(stop.set)

        self._stop = told_to_stop
        server = await asyncio.start_server(self._converse, sock=listener, limit=HEAD_BYTES)
        running.set()
        try:
            await stop.wait()
        finally:
            server.close()  # conversations are cancelled with the loop

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        writer.transport.set_write_buffer_limits(high=0)  # drained: the kernel has all of it
        try:
            if self._connections <= MOST_CONNECTIONS:
                await self._answer(reader, writer)
            elif self._connections <= 2 * MOST_CONNECTIONS:
                await _refuse(reader, writer, Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"))
        except (OSError, TimeoutError):
            pass  # the client has gone, or takes nothing
        except asyncio.CancelledError:
            pass  # we close; nobody waits for this task
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await read_request(reader)
            if request is None:
                return
            self._check_host(request)
            if request.path == "/api/stream":
                await self._stream(request, reader, writer)
                return
            answer = self._reply(request)
        except Refused as refused:
            await _refuse(reader, writer, refused)
            return
        await _send(writer, answer.encode())
        writer.close()
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.wait_closed()

    def _check_host(self, request: Request) -> None:
        """A name that somebody else owns can be made to resolve to us, and then their page reads ours as if it were its own."""
        if request.host not in self._names and not is_literal(request.host):
            raise Refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this server does not go by the name {request.host[:64]!r}: ask for its address, or for localhost",
            )

    def _reply(self, request: Request) -> Answer:
        if request.path in self._files:
            return self._files[request.path]
        try:
            if request.path == "/api/groups":
                return answers.of_json(self._groups())
            if request.path == "/api/snapshot":
                text = self._encoded.get(request.group)
                return _no_such(request) if text is None else Answer(HTTPStatus.OK, answers.JSON, text)
            if request.path == "/metrics" and self._metrics is not None:
                return Answer(HTTPStatus.OK, answers.METRICS, self._metrics())
        except Exception:
            log.exception("the dashboard cannot answer %s", request.path[:64])
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed; the coordinator's log has the reason")
        return refusal(HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")

    def _encode(self, group: str | None) -> bytes | None:
        snapshot = self._snapshot(group)
        return None if snapshot is None else answers.encode_json(snapshot)

    # ---- streams ----------------------------------------------------------------------------------------------

    async def _stream(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listeners >= MOST_LISTENERS:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_LISTENERS} listen already: ask /api/snapshot now and then"
            )
        group = request.group
        feed = self._feeds.setdefault(group, Feed(lambda: self._event(group)))
        self._listeners += 1
        feed.enter()
        try:
            await _send(writer, answers.head(HTTPStatus.OK, answers.STREAM))
            await _pass_on(feed, reader, writer)
        finally:
            feed.leave()
            self._listeners -= 1
            if feed.idle:
                self._feeds.pop(group, None)

    def _event(self, group: str | None) -> bytes:
        try:
            text = self._encoded.fresh(group)
        except Exception:
            if not self._failing:
                log.exception("the dashboard gets no snapshot")
            self._failing = True
            return event("trouble", b"{}")
        self._failing = False
        return event("absent", b"{}") if text is None else event("snapshot", text)


def _no_such(request: Request) -> Answer:
    named = "there is no group yet" if request.group is None else f"there is no group {request.group!r}"
    return refusal(HTTPStatus.NOT_FOUND, f"{named}; /api/groups lists those that are there")


async def _pass_on(feed: Feed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the client goes: it has nothing more to say, so whatever comes from it is its end."""
    gone = asyncio.create_task(reader.read(1))
    news: asyncio.Task[tuple[int, bytes]] | None = None
    seen = 0
    try:
        while True:
            news = asyncio.create_task(feed.next(seen))
            await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            seen, text = news.result()
            await _send(writer, text)
    finally:
        for task in (gone, news):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (gone, news) if task is not None), return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Raises TimeoutError when the client does not take it."""
    writer.write(data)
    async with asyncio.timeout(WRITE_SECONDS):
        await writer.drain()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refused: Refused) -> None:
    await _send(writer, refusal(refused.status, refused.text).encode())
    writer.write_eof()
    left = LINGER_BYTES
    async with asyncio.timeout(LINGER_SECONDS):
        while left > 0 and (read := await reader.read(left)):
            left -= len(read)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(target[:2], family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        hint = "take another port" if error.errno == errno.EADDRINUSE else "name an address of this machine"
        raise CollcommError(
            f"the dashboard cannot listen on {format_address(host, port)}: {error.strerror or error}; {hint}"
        ) from None


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith("127.")
