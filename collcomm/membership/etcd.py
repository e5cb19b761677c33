"""Records in etcd, and a lease there that decides which of several coordinators leads.

Why two never lead at once. The leader's key exists as long as its lease, and is made only where there is none. A coordinator
counts its lease from the moment before it *asked* for it or for its renewal, less a margin for clocks that run unequally; so it
stops to lead before etcd lets the key go. And should it be held up between looking at the clock and acting: a view
counts once it was written, and `save` writes in one transaction that asks whether the key is still the one that we made.
A write whose answer is lost may land later: so it ends our term, and the next has another key. Between two terms `leads` is
False once, so that nothing that was known in the first is acted on in the second.
(Leases as fencing tokens: Gray and Cheriton 1989; Burrows 2006.)
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception

from ..errors import CollcommError
from .store import Deposed

log = logging.getLogger("collcomm.coordinator")
TTL_SECONDS = 2  # etcd grants no less with its usual election timeout
MARGIN_SECONDS = 0.3
RENEW_SECONDS = 0.5
LOOK_SECONDS = 0.1  # how often a standby looks whether there is a leader
REQUEST_SECONDS = 0.4  # three attempts fit into a lease
MAX_BYTES = 1 << 20  # etcd's own limit is 1.5 MiB a request


class EtcdStore:
    """``endpoints``: "http://host:2379", or several with commas between. ``cluster``: coordinators that stand in for
    each other name the same one. ``address``: where peers reach this one, for them to read."""

    def __init__(self, endpoints: str, cluster: str, address: str):
        self.leader = ""
        self._address = address
        self._prefix = f"collcomm/{cluster}/"
        self._campaigner = _Etcd(endpoints)
        self._writer = _Etcd(endpoints)
        self._lease = 0
        self._revision = 0  # at which our leader key was made
        self._leads_until = 0.0
        self._forfeited = False  # a write of this term may still land: it must not be our term then
        self._unseen = False  # a term has begun that `leads` has not announced by a False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._campaign, name="collcomm-lease", daemon=True)
        self._thread.start()

    def leads(self) -> bool:
        if self._unseen:
            self._unseen = False
            return False
        return time.monotonic() < self._leads_until and not self._forfeited

    def load(self, group: str) -> bytes | None:
        found = self._writer.post("/kv/range", {"key": _text(self._record_key(group))})
        values = found.get("kvs", [])
        return base64.b64decode(values[0].get("value", "")) if values else None

    def save(self, group: str, record: bytes | None) -> None:
        if record is not None and len(record) > MAX_BYTES:
            raise CollcommError(f"the record of group {group!r} has {len(record)} bytes, etcd takes {MAX_BYTES}")
        if self._unseen:
            raise Deposed("this coordinator has lost its term, and begins a new one")
        key = _text(self._record_key(group))
        if record is None:
            change: dict[str, Any] = {"request_delete_range": {"key": key}}
        else:
            change = {"request_put": {"key": key, "value": base64.b64encode(record).decode()}}
        ours = {
            "key": _text(self._leader_key),
            "target": "CREATE",
            "result": "EQUAL",
            "create_revision": self._revision,
        }
        try:
            answer = self._writer.post("/kv/txn", {"compare": [ours], "success": [change]})
        except CollcommError as error:
            self._forfeited = True
            raise Deposed(f"it is not known whether a view was written down: {error}") from None
        if not answer.get("succeeded"):
            self._leads_until = 0.0
            raise Deposed(f"another coordinator leads cluster {self._prefix.split('/')[1]!r} by now")

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._leads_until = 0.0
        if self._lease:
            try:
                self._campaigner.post("/lease/revoke", {"ID": self._lease})
            except CollcommError:
                pass  # it runs out by itself

    # -- the campaign, on a thread of its own ------------------------------------------------------------------------

    def _campaign(self) -> None:
        told = ""
        while not self._closing.is_set():
            try:
                pause, told = self._turn(), ""
            except CollcommError as error:
                pause = LOOK_SECONDS
                if str(error) != told:
                    told = str(error)
                    log.warning("%s", error)
            self._closing.wait(pause)

    def _turn(self) -> float:
        """Renew the lease, or try to become the leader. Returns how long to wait until the next turn."""
        if self._lease:
            asked = time.monotonic()
            left = self._campaigner.post("/lease/keepalive", {"ID": self._lease})["result"].get("TTL", 0)
            if int(left) > 0 and self._leads_until and not self._forfeited:
                self._leads_until = asked + TTL_SECONDS - MARGIN_SECONDS
                return RENEW_SECONDS
            self._leads_until, self._lease = 0.0, 0
        found = self._campaigner.post("/kv/range", {"key": _text(self._leader_key)}).get("kvs", [])
        if found:
            self.leader = base64.b64decode(found[0]["value"]).decode(errors="replace")
            return LOOK_SECONDS
        asked = time.monotonic()
        lease = int(self._campaigner.post("/lease/grant", {"TTL": TTL_SECONDS})["ID"])
        key = _text(self._leader_key)
        absent = {"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": 0}
        put = {"request_put": {"key": key, "value": _text(self._address), "lease": lease}}
        answer = self._campaigner.post("/kv/txn", {"compare": [absent], "success": [put]})
        if not answer.get("succeeded"):
            return 0.0
        self._unseen = True
        self._lease, self._revision, self._forfeited = lease, int(answer["header"]["revision"]), False
        self.leader = self._address
        self._leads_until = asked + TTL_SECONDS - MARGIN_SECONDS
        return RENEW_SECONDS

    @property
    def _leader_key(self) -> str:
        return f"{self._prefix}leader"

    def _record_key(self, group: str) -> str:
        return f"{self._prefix}group/{group}"


class _Etcd:
    """Requests to whichever endpoint answers; one thread at a time."""

    def __init__(self, endpoints: str):
        self._clients = []
        for endpoint in endpoints.split(","):
            parts = urlsplit(endpoint.strip())
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"an etcd endpoint is written like 'http://host:2379', not {endpoint.strip()!r}")
            port = parts.port or 2379
            self._clients.append(
                Etcd3Client(parts.hostname, port, parts.scheme, timeout=REQUEST_SECONDS, api_path="/v3/")
            )

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises CollcommError when no endpoint answers."""
        problems = []
        for _ in range(len(self._clients)):
            client = self._clients[0]
            try:
                answer: dict[str, Any] = client.post(client.get_url(path), json=body)
                return answer
            except (Etcd3Exception, ValueError, OSError) as error:
                problems.append(f"{client.base_url}: {type(error).__name__}")
                self._clients = self._clients[1:] + self._clients[:1]
        raise CollcommError(f"etcd does not answer ({'; '.join(problems)})")


def _text(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
