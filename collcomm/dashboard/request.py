"""What a browser asks: the head of one HTTP request, read within limits of size and time. Bodies are not for us."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

HEAD_BYTES = 8192  # of a request: browsers send about 1 KiB
HEAD_SECONDS = 5.0  # for all of it, however slowly it drips
GROUP_BYTES = 256  # of a group's name
FIELDS = 8  # in a query
END = b"\r\n\r\n"


class Refused(Exception):
    """The request gets ``status`` and ``text``, and no more."""

    def __init__(self, status: HTTPStatus, text: str):
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Request:
    """``host``: as the browser names us, without the port; ``group``: of the query, None if it names none."""

    path: str
    host: str
    group: str | None


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """None: who connected has gone without a word. The reader's limit is `HEAD_BYTES`. Raises `Refused`."""
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            head = await reader.readuntil(END)
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"the request took more than {HEAD_SECONDS:g} s to arrive") from None
    except asyncio.LimitOverrunError:
        raise Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request may have {HEAD_BYTES} bytes of headers"
        ) from None
    except (asyncio.IncompleteReadError, OSError):
        return None
    return parse_request(head)


def parse_request(head: bytes) -> Request:
    """Raises `Refused`."""
    first, *fields = head.removesuffix(END).decode("latin-1").split("\r\n")
    method, target = _request_line(first)
    if method != "GET":
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{method[:16]!r} is not for this server: it answers GET")
    hosts = [value.strip() for name, _, value in (field.partition(":") for field in fields) if name.lower() == "host"]
    if len(hosts) != 1:
        raise Refused(HTTPStatus.BAD_REQUEST, "a request has one Host header")
    try:
        parts = urlsplit(target)
        query = parse_qs(parts.query, max_num_fields=FIELDS, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refused(HTTPStatus.BAD_REQUEST, "what was asked for is not an address of this server") from None
    group = query.get("group", [None])[-1]
    if group is not None and len(group.encode()) > GROUP_BYTES:
        raise Refused(HTTPStatus.BAD_REQUEST, f"a group's name has at most {GROUP_BYTES} bytes")
    return Request(parts.path, _without_port(hosts[0]), group)


def _request_line(line: str) -> tuple[str, str]:
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise Refused(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
    return words[0], words[1]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_literal(host: str) -> bool:
    """Whether ``host`` is an address rather than a name: nobody can have a name of theirs resolve to us this way."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
