"""What goes back to a browser: files of the page, JSON, metrics and refusals, all with the headers that keep a page safe."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from typing import Any

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
TEXT, JSON = "text/plain; charset=utf-8", "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
STREAM = "text/event-stream"

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text cannot become markup, not even by a mistake of the page's
        "trusted-types 'none'",
    ]
)
SAFETY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Answer:
    status: HTTPStatus
    kind: str
    body: bytes

    def encode(self) -> bytes:
        length = {"Content-Length": str(len(self.body))}
        allow = {"Allow": "GET"} if self.status is HTTPStatus.METHOD_NOT_ALLOWED else {}
        return head(self.status, self.kind, {**length, **allow}) + self.body


def head(status: HTTPStatus, kind: str, more: dict[str, str] | None = None) -> bytes:
    """One request a connection: a browser that loads the page opens a few, and none lies idle here."""
    fields = {"Content-Type": kind, **(more or {}), **SAFETY, "Connection": "close"}
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def refusal(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, TEXT, f"{text}\n".encode())


def of_json(value: Any) -> Answer:
    return Answer(HTTPStatus.OK, JSON, encode_json(value))


def encode_json(value: Any) -> bytes:
    """In one line. What is not a number, and infinity, are null: JSON has neither, and a browser would read nothing at all."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return text.encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def page_files() -> dict[str, Answer]:
    """By path, all that there is of the page. It is read once: what a request names is looked up here, and never on a disk."""
    folder = resources.files(__package__).joinpath("page")
    found = {}
    for file in folder.iterdir():
        kind = TYPES.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            found[f"/{file.name}"] = Answer(HTTPStatus.OK, kind, file.read_bytes())
    found["/"] = found["/index.html"]
    return found
