"""Prometheus metrics: of a coordinator's groups, made from snapshots when somebody scrapes, and of one peer in its own process.

Names and units go by Prometheus' conventions: seconds, bytes, counters that end in ``_total``. Labels are a group's name and
members' names, of which there are as many as members at a time; a group of more than `MOST_MEMBERS` is told of as a whole only,
and of no more than `MOST_LINKS` links.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from ..errors import CollcommError

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise CollcommError(f"metrics need {error.name}: pip install 'collcomm[metrics]'") from None

CONTENT_TYPE = CONTENT_TYPE_LATEST
MOST_MEMBERS = 1024
MOST_LINKS = 4096
STATES = ("computing", "communicating", "waiting", "silent")

Snapshot = Mapping[str, Any]

_OF_A_GROUP = {
    "collcomm_members": "Members of the present view.",
    "collcomm_epoch": "Number of the present view.",
    "collcomm_pending_peers": "Peers that wait to be admitted.",
}
_OF_A_MEMBER = {  # field of the snapshot, and metric
    "rate": ("collcomm_member_operations_per_second", "Operations completed per second."),
    "sent": ("collcomm_member_sent_bytes_per_second", "Bytes sent per second."),
    "received": ("collcomm_member_received_bytes_per_second", "Bytes received per second."),
    "computed": ("collcomm_member_computed_ratio", "Share of the time outside operations."),
    "late": ("collcomm_member_late_seconds", "How much later than the first it comes to operations, median."),
    "heard": ("collcomm_member_silence_seconds", "Since the coordinator heard of it last."),
    "rtt": ("collcomm_member_round_trip_seconds", "Between the coordinator and the member."),
}
_OF_A_LINK = {
    "latency": ("collcomm_link_latency_seconds", "One way, as measured."),
    "bandwidth": ("collcomm_link_bandwidth_bytes_per_second", "As measured."),
}


class SnapshotCollector(Collector):
    """Of all groups. ``snapshots()``: one of each, by the schema of `collcomm.health.snapshot`; called once per scrape."""

    def __init__(self, snapshots: Callable[[], Sequence[Snapshot]]):
        self._snapshots = snapshots
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def exposition(self) -> bytes:
        """What an HTTP endpoint for Prometheus answers, in `CONTENT_TYPE`."""
        text: bytes = generate_latest(self._registry)
        return text

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshots = list(self._snapshots())
        yield from _groups(snapshots)
        yield from _members(snapshots)
        yield from _links(snapshots)
        yield from _findings(snapshots)
        yield from _events(snapshots)


def _groups(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    values = {
        "collcomm_members": lambda shown: len(_maps(shown, "members")),
        "collcomm_epoch": lambda shown: shown.get("epoch"),
        "collcomm_pending_peers": lambda shown: shown.get("pending"),
    }
    for name, text in _OF_A_GROUP.items():
        yield _gauge(name, text, ["group"], [([_name(shown, "group")], values[name](shown)) for shown in snapshots])


def _members(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    members = [(_name(shown, "group"), member) for shown in snapshots for member in _told(shown)]
    labels = ["group", "member"]
    for field, (name, text) in _OF_A_MEMBER.items():
        yield _gauge(
            name, text, labels, [([group, _name(member, "name")], member.get(field)) for group, member in members]
        )
    done = CounterMetricFamily("collcomm_member_operations", "Operations completed since it joined.", labels=labels)
    for group, member in members:
        if (count := _number(member.get("operations"))) is not None:
            done.add_metric([group, _name(member, "name")], count)
    yield done
    state = GaugeMetricFamily("collcomm_member_state", "1 for the state that it is in.", labels=[*labels, "state"])
    age = GaugeMetricFamily("collcomm_member_operation_age_seconds", "Of the operation it is in.", labels=labels)
    waits = GaugeMetricFamily("collcomm_member_waited_for_by", "Members that wait for it now.", labels=labels)
    waited = Counter((group, other) for group, member in members for other in _waiting_on(member))
    for group, member in members:
        who = [group, _name(member, "name")]
        if member.get("state") in STATES:
            for each in STATES:
                state.add_metric([*who, each], float(member["state"] == each))
        operation = member.get("operation")
        if isinstance(operation, Mapping) and (value := _number(operation.get("age"))) is not None:
            age.add_metric(who, value)
        waits.add_metric(who, float(waited[group, member.get("id")]))
    yield from (state, age, waits)


def _links(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    rows = []
    for shown in snapshots:
        names = {member.get("id"): _name(member, "name") for member in _told(shown)}
        for link in _maps(shown, "links")[:MOST_LINKS]:
            ends = [names.get(link[end]) if isinstance(link.get(end), int) else None for end in ("source", "target")]
            if None not in ends:
                rows.append(([_name(shown, "group"), *filter(None, ends)], link))
    for field, (name, text) in _OF_A_LINK.items():
        labels = ["group", "source", "target"]
        yield _gauge(name, text, labels, [(values, link.get(field)) for values, link in rows])


def _findings(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    """Open ones; a syndrome that was seen and is over stays, with 0."""
    found: Counter[tuple[str, str]] = Counter()
    for shown in snapshots:
        for finding in _maps(shown, "findings"):
            found[_name(shown, "group"), _name(finding, "syndrome")] += finding.get("ended") is None
    rows = [([group, syndrome], count) for (group, syndrome), count in sorted(found.items())]
    yield _gauge("collcomm_findings", "Findings that hold now, by syndrome.", ["group", "syndrome"], rows)


def _events(snapshots: Sequence[Snapshot]) -> Iterator[Metric]:
    views = CounterMetricFamily("collcomm_views", "Views announced.", labels=["group"])
    exits = CounterMetricFamily(
        "collcomm_exits",
        "Peers that are out: left, died, evicted, and by which cause.",
        labels=["group", "kind", "cause"],
    )
    others = CounterMetricFamily("collcomm_events", "All events, by kind.", labels=["group", "kind"])
    for shown in snapshots:
        group, kinds = _name(shown, "group"), Counter[str]()
        for total in _maps(shown, "totals"):
            count = _number(total.get("count"))
            if count is None:
                continue
            kind, cause = _name(total, "kind"), _name(total, "cause")
            kinds[kind] += int(count)
            if cause:
                exits.add_metric([group, kind, cause], count)
        views.add_metric([group], kinds["view"])
        for kind, count in sorted(kinds.items()):
            others.add_metric([group, kind], count)
    yield from (views, exits, others)


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Any]]) -> Metric:
    """Of what is known; a later row of the same labels is left out."""
    metric, seen = GaugeMetricFamily(name, text, labels=labels), set()
    for values, value in rows:
        number = _number(value)
        if number is not None and tuple(values) not in seen:
            seen.add(tuple(values))
            metric.add_metric(values, number)
    return metric


def _maps(shown: Snapshot, name: str) -> list[Snapshot]:
    found = shown.get(name)
    return [piece for piece in found if isinstance(piece, Mapping)] if isinstance(found, list) else []


def _told(shown: Snapshot) -> list[Snapshot]:
    """The members to be told of one by one, each name once."""
    members = [member for member in _maps(shown, "members") if isinstance(member.get("id"), int)]
    named = {_name(member, "name"): member for member in members}
    return list(named.values()) if len(members) <= MOST_MEMBERS else []


def _waiting_on(member: Snapshot) -> list[Any]:
    operation = member.get("operation")
    others = operation.get("waiting_on") if isinstance(operation, Mapping) else None
    return [other for other in others if isinstance(other, int)] if isinstance(others, list) else []


def _name(shown: Snapshot, field: str) -> str:
    value = shown.get(field)
    return "" if value is None else str(value)[:128]


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


# -- a peer's own process ----------------------------------------------------------------------------------------------


class Peer(Protocol):
    """A `collcomm.Communicator`, or whatever tells the same."""

    name: str

    @property
    def size(self) -> int: ...

    @property
    def view(self) -> Any: ...

    def stats(self) -> Mapping[str, float]: ...


_OF_A_PEER = {
    "bytes_sent": ("collcomm_sent_bytes", "Sent since joining, with headers, by all communicators."),
    "bytes_received": ("collcomm_received_bytes", "Received since joining."),
    "operations": ("collcomm_operations", "Operations completed since joining."),
    "retries": ("collcomm_retries", "Operations that were run again over the survivors."),
    "seconds_lost": ("collcomm_lost_seconds", "From the moment a failure was noticed to the end of what it hit."),
}


class PeerCollector(Collector):
    """What one peer tells of itself: `stats` as counters, size and number of its view."""

    def __init__(self, peer: Peer):
        self._peer = peer

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        who, stats = [self._peer.name], self._peer.stats()
        for field, (name, text) in _OF_A_PEER.items():
            if field in stats:
                counter = CounterMetricFamily(name, text, labels=["name"])
                counter.add_metric(who, float(stats[field]))
                yield counter
        yield _gauge("collcomm_members", _OF_A_GROUP["collcomm_members"], ["name"], [(who, self._peer.size)])
        yield _gauge("collcomm_epoch", _OF_A_GROUP["collcomm_epoch"], ["name"], [(who, self._peer.view.epoch)])


class MetricsServer:
    """A context in which a peer's metrics are served; see `start_metrics`."""

    def __init__(self, peer: Peer, port: int, host: str):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(PeerCollector(peer))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            raise CollcommError(f"metrics cannot be served on {host}, port {port}: {error}") from None
        self.port: int = self._server.server_port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Harmless when done twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics(peer: Peer, port: int = 0, host: str = "127.0.0.1") -> MetricsServer:
    """Serve ``peer``'s metrics (a communicator's) on a port of its own process, from a thread; 0 takes a free one. Raises
    CollcommError if the port is taken."""
    return MetricsServer(peer, port, host)
