"""`join`: from "host:port" to a communicator."""

from __future__ import annotations

import math
import os
import secrets
import socket
import time
from collections.abc import Sequence

from .communicator import Communicator
from .engine import EventLog, Session
from .engine.session import GRACE_SECONDS
from .errors import CoordinatorUnavailable, UnsupportedTransport
from .launched import join_launched, wants_mpi
from .membership import Agent, ZmqLines, peer_credentials
from .membership.credentials import CA_CERTIFICATE, CERTIFICATE, CERTIFICATE_KEY, PeerCredentials
from .observing import recorded
from .transports import (
    Route,
    ShmRoute,
    SocketTransport,
    TcpRoute,
    Tls,
    format_address,
    host_identity,
    local_address_towards,
    parse_address,
    parse_addresses,
)
from .transports.cuda_ipc import find_device
from .transports.device import Device
from .types import OUTWARD

TRANSPORTS = ("cuda_ipc", "shm", "tcp")  # in order of preference; beside "mpi", which has no coordinator
DEFAULT_OPERATION_SECONDS = 600.0  # generous: a dead peer is noticed long before, this ends what nobody noticed


def join(
    coordinator: str | None = None,
    *,
    group: str = "default",
    name: str | None = None,
    min_size: int = 1,
    timeout: float = 60.0,
    transports: Sequence[str] | None = None,
    advertise: str | None = None,
    listen: str | None = None,
    secret: str | None = None,
    keys: str | os.PathLike[str] | None = None,
    on_failure: str = "retry",
    op_timeout: float = DEFAULT_OPERATION_SECONDS,
    streams: int = 1,
    grace: float = GRACE_SECONDS,
    site: str | None = None,
    reachable: bool | None = None,
    probe: bool = True,
) -> Communicator:
    """Join ``group`` at the coordinator ``"host:port"`` and wait to be admitted.

    Without an address, under mpirun or srun, the group is the MPI job: all its ranks call this, and nobody joins later.

    Several coordinators, of which one leads and the others stand by, are given as ``"a:48148,b:48148"``. What is not given
    is taken from the environment, where it says so: COLLCOMM_COORDINATOR, COLLCOMM_NAME, COLLCOMM_ADVERTISE, COLLCOMM_LISTEN,
    COLLCOMM_TRANSPORTS, COLLCOMM_SITE, COLLCOMM_REACHABLE. COLLCOMM_SOURCES lists local addresses, of several cards, from which
    a link's connections come in turn.
    COLLCOMM_EVENTS names a file to which this peer appends what happens to it (`collcomm.engine.events`). Operations are
    recorded (`collcomm.health`), and the coordinator is told about once a second how this peer is; not with
    COLLCOMM_RECORD=0. COLLCOMM_DUMP_DIR names a directory for the records of a peer in which an operation fails, whose
    membership ends with an error, or that gets SIGUSR1; see also ``dump`` of the communicator.

    :param name: how errors and logs call this peer; unique in the group; made up from host and chance if not given.
    :param min_size: the group's first view forms when so many wait; later joiners wait for the members' next ``step()``.
    :param timeout: seconds to wait for admission.
    :param transports: names in order of preference, "cuda_ipc" (GPU arrays among members of one host; brings "shm"),
        "shm" (members of one host) and "tcp"; None: the best that both ends have.
    :param advertise: "host" or "host:port" at which the others reach this peer, where that differs from the address
        on the route to the coordinator (address translation, several cards). Names a port to listen on, too.
    :param listen: "host:port" to listen on, where that differs from ``advertise`` (a forwarded port).
    :param secret: what the coordinator was started with as ``secret=``; the variable COLLCOMM_SECRET if neither this nor
        ``keys`` is given. Long and random, best: ``python -c 'import secrets; print(secrets.token_urlsafe())'``.
    :param keys: the directory of this peer's keys and certificates, made by ``collcomm keys``; or COLLCOMM_KEYS.
    :param on_failure: "retry": a collective in which a peer dies is run again over the survivors; "raise": PeerLost.
    :param op_timeout: seconds that one operation may take, unless the call says otherwise.
    :param streams: TCP connections per pair of peers; several fill long fat pipes.
    :param grace: seconds that an operation which a failure interrupted waits for a coordinator that is away.
    :param site: where this peer is, in a word: equal for peers that are near each other (a rack, a data centre). What is not said
        is told from measured latencies. Traffic crosses from site to site as seldom as it can.
    :param reachable: False: other hosts cannot dial this peer (address translation, closed ports), so it dials them, or is
        reached through another member. That is found out without being said, too, which takes some seconds. None: what
        COLLCOMM_REACHABLE says, 0 or 1; True if it says nothing.
    :param probe: measure the links between hosts, in the background; not done where COLLCOMM_PROBE=0.
    :raises AuthenticationFailed: the coordinator has another secret or other keys, or one side has none.
    :raises CoordinatorUnavailable: nobody, or something else, answers there within ``timeout``.
    :raises JoinRejected: the coordinator says no, and why.
    """
    if wants_mpi(coordinator or os.environ.get("COLLCOMM_COORDINATOR"), transports):
        name = os.environ.get("COLLCOMM_NAME") if name is None else name
        _check(name, group, min_size, timeout, on_failure, op_timeout)
        return join_launched(name, min_size, timeout, on_failure, op_timeout)
    coordinator, name, advertise, listen = _from_environment(coordinator, name, advertise, listen)
    addresses = parse_addresses(coordinator)
    _check(name, group, min_size, timeout, on_failure, op_timeout, grace)
    site = os.environ.get("COLLCOMM_SITE", "") if site is None else site
    if not isinstance(site, str) or len(site) > 64:
        raise ValueError(f"site must be a string of at most 64 characters, not {site!r}")
    if reachable is None:
        reachable = os.environ.get("COLLCOMM_REACHABLE", "1") != "0"
    wanted = _wanted(transports)
    device = _device(wanted)
    deadline = time.monotonic() + timeout
    credentials = peer_credentials(secret, keys)
    if name is None:
        name = f"{socket.gethostname()}-{secrets.token_hex(3)}"
    own_host = _own_address(addresses)
    listen_host, listen_port, shown_host, shown_port = own_host, 0, own_host, 0
    if advertise is not None:
        shown_host, shown_port = advertised(advertise)
        listen_port = shown_port
        listen_host = ""
    if listen is not None:
        listen_host, listen_port = parse_address(listen)
    sources = [address for address in os.environ.get("COLLCOMM_SOURCES", "").split(",") if address]
    tcp = TcpRoute(listen_host, listen_port, streams, _tls(credentials), sources)
    shown_port = shown_port or tcp.port
    try:
        routes: list[Route] = [*_shared_memory(wanted, shown_host, shown_port, streams), tcp]
    except BaseException:
        tcp.listener.close()
        raise
    transport = SocketTransport(routes, wanted)
    on_device = device is not None and "shm" in transport.offers
    session = Session(transport, device=device, grace=grace)
    if probe and os.environ.get("COLLCOMM_PROBE", "1") != "0":
        session.probe_links()
    try:
        if events := os.environ.get("COLLCOMM_EVENTS"):
            session.events = EventLog(events, name, session.totals)
        request = {
            "t": "join",
            "group": group,
            "name": name,
            "host": shown_host,
            "port": shown_port,
            "host_id": host_identity(),
            "offers": ",".join(["cuda_ipc"] * on_device + list(transport.offers) + [OUTWARD] * (not reachable)),
            "site": site,
            "min_size": min_size,
            "on_failure": on_failure,
        }
        agent = Agent(ZmqLines(coordinator, credentials), request, session)
        if os.environ.get("COLLCOMM_RECORD", "1") != "0":
            agent.report = recorded(session, group, name)
        session.enter(agent, deadline)
        return Communicator(session, session.world(), name, op_timeout)
    except BaseException:
        session.close()
        raise


def _from_environment(
    coordinator: str | None, name: str | None, advertise: str | None, listen: str | None
) -> tuple[str, str | None, str | None, str | None]:
    given = os.environ.get
    if coordinator is None:
        coordinator = given("COLLCOMM_COORDINATOR")
    if coordinator is None:
        raise ValueError("where is the coordinator? Call join('host:48148'), or set COLLCOMM_COORDINATOR=host:48148")
    if listen is None and advertise is None:  # they belong together
        listen, advertise = given("COLLCOMM_LISTEN"), given("COLLCOMM_ADVERTISE")
    return coordinator, given("COLLCOMM_NAME") if name is None else name, advertise, listen


def _wanted(transports: Sequence[str] | str | None) -> list[str]:
    """The names that are available here, in the order given."""
    if transports is None:
        transports = os.environ.get("COLLCOMM_TRANSPORTS", "").replace(",", " ").split() or TRANSPORTS
    wanted = [transports] if isinstance(transports, str) else list(transports)
    found = [name for name in wanted if name in TRANSPORTS]
    if not found:
        raise UnsupportedTransport(f"of {wanted} none is available here; there is: {', '.join(TRANSPORTS)}")
    if "cuda_ipc" in found and "shm" not in found:  # over which windows are handed out
        found.insert(found.index("cuda_ipc") + 1, "shm")
    return found


def _device(wanted: Sequence[str]) -> Device | None:
    """The GPU, if one is wanted and there is one. Raises UnsupportedTransport when it is all that is wanted."""
    if "cuda_ipc" not in wanted:
        return None
    try:
        return find_device()
    except UnsupportedTransport as error:
        if "tcp" not in wanted:
            raise UnsupportedTransport(f"cuda_ipc is not available here: {error}; allow tcp, too") from None
        return None


def _shared_memory(wanted: Sequence[str], host: str, port: int, streams: int) -> list[Route]:
    """The way to members on this host, if it is wanted and can be had. Raises UnsupportedTransport when there is no other."""
    if "shm" not in wanted:
        return []
    try:
        return [ShmRoute(host, port, host_identity(), streams)]
    except OSError as error:
        if len(wanted) > 1:
            return []
        raise UnsupportedTransport(f"shm is not available here: {error.strerror}; allow tcp, too") from None


def _tls(credentials: PeerCredentials | None) -> Tls | None:
    if credentials is None or credentials.certificates is None:
        return None
    folder = credentials.certificates
    return Tls(folder / CA_CERTIFICATE, folder / CERTIFICATE, folder / CERTIFICATE_KEY)


def _check(
    name: str | None,
    group: str,
    min_size: int,
    timeout: float,
    on_failure: str,
    op_timeout: float,
    grace: float = GRACE_SECONDS,
) -> None:
    for what, text in (("group", group), ("name", name)):
        if text is not None and (not isinstance(text, str) or not 0 < len(text) <= 128):
            raise ValueError(f"{what} must be a string of 1 to 128 characters, not {text!r}")
    if not isinstance(min_size, int) or not 1 <= min_size <= 10_000:
        raise ValueError(f"min_size must be from 1 to 10000, not {min_size!r}")
    for what, seconds in (("timeout", timeout), ("op_timeout", op_timeout), ("grace", grace)):
        if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ValueError(f"{what} must be a positive number of seconds, not {seconds!r}")
    if on_failure not in ("retry", "raise"):
        raise ValueError(f"on_failure must be 'retry' or 'raise', not {on_failure!r}")


def _own_address(coordinators: Sequence[tuple[str, int]]) -> str:
    """The address on the route to the first coordinator that there is a route to."""
    problems = []
    for host, port in coordinators:
        try:
            return local_address_towards(host, port)
        except OSError as error:
            problems.append(f"no way to the coordinator at {format_address(host, port)}: {error}")
    raise CoordinatorUnavailable("; ".join(problems))


def advertised(text: str) -> tuple[str, int]:
    """Host and port of COLLCOMM_ADVERTISE; port 0 where it names none."""
    if text.count(":") == 1 or text.startswith("["):
        return parse_address(text if not text.endswith("]") else f"{text}:0")
    return text, 0
