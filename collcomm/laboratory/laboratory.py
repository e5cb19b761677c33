"""A network on this machine: namespaces as hosts, joined as a blueprint says, gone when its context ends. Needs root.

Everything lives in namespaces that are made here and deleted again, also when the owner is killed (`guardian`); the machine's own
network is not touched. Each host has one address, by which the others know it. Where the hub is not part of the network
that is studied, a control cable leads to it from each host: unshaped, and used by nothing that is not meant for the hub.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from .blueprint import Blueprint
from .description import Description, square
from .guardian import PREFIX, TIDY, delete
from .namespaces import execute, missing_for_namespaces
from .relayprocess import RelayProcess

HUB = "hub"
SWITCH = "switch"
MAX_HOSTS = 100
CONTROL_ADDRESS = "10.47.0.1"
HOSTS_NETWORK = "10.48.0.0/16"
GUARDIAN_SECONDS = 10.0

_numbers = itertools.count()


class Laboratory:
    """A context; the network is there while it is entered. ``addresses``: of the hosts, as they are written before a port.

    ``ports``: by host, the places and devices where its cables end. ``needs``: further programs. Raises PermissionError, saying
    what is missing, where namespaces cannot be had.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        description: Description,
        addresses: Sequence[str],
        ports: Sequence[Sequence[tuple[str, str]]],
        hub_address: str,
        needs: Sequence[str] = (),
    ):
        reason = missing_for_namespaces(*needs)
        if reason is not None:
            raise PermissionError(reason)
        self.hosts = len(addresses)
        self.hub_address = hub_address
        self._blueprint = blueprint
        self._description = description
        self._addresses = tuple(addresses)
        self._ports = ports
        self._tag = f"{PREFIX}{os.getpid()}n{next(_numbers)}"
        self._guardian: subprocess.Popen[bytes] | None = None

    def address(self, index: int) -> str:
        """Of host ``index``, as it is written before a port."""
        return self._addresses[index]

    def describe(self) -> Description:
        """What is true of this network, as plain data."""
        return self._description

    def enter(self, index: int | None) -> list[str]:
        """The start of a command line that runs the rest in host ``index``; None: in the hub."""
        if index is not None and not 0 <= index < self.hosts:
            raise IndexError(f"the hosts are 0 to {self.hosts - 1}, not {index}")
        return self._enter(HUB if index is None else f"h{index}")

    def run(self, index: int | None, *command: str) -> str:
        """Run a command in host ``index`` (None: the hub); returns what it prints. Raises RuntimeError if it fails."""
        return execute([*self.enter(index), *command])

    def unplug(self, index: int) -> None:
        """Pull the cables of host ``index``: it loses its carrier, the others are told nothing."""
        self._set_ports(index, "down")

    def plug_in(self, index: int) -> None:
        self._set_ports(index, "up")

    def cut(self, index: int, other: int) -> None:
        """Drop silently all that passes between two hosts; both still reach the hub and everybody else."""
        address = self.address(other).strip("[]")
        family = "ip6" if ":" in address else "ip"
        rules = (
            f"add table {family} cut;"
            f"add chain {family} cut in {{ type filter hook input priority 0; }};"
            f"add chain {family} cut out {{ type filter hook output priority 0; }};"
            f"add rule {family} cut in {family} saddr {address} drop;"
            f"add rule {family} cut out {family} daddr {address} drop"
        )
        self.run(index, "nft", rules)

    def mend(self, index: int) -> None:
        """Undo `cut` at host ``index``."""
        self.run(index, "nft", f"delete table {'ip6' if ':' in self.address(index) else 'ip'} cut")

    def __enter__(self) -> Self:
        try:
            self._start_guardian()
            self._blueprint.build(self._namespace, self._furnish)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the namespaces, and with them their links."""
        if self._guardian is None:
            return
        delete([self._namespace(place) for place in self._blueprint.places])
        try:
            self._guardian.communicate(TIDY, GUARDIAN_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self._guardian.kill()
            self._guardian.wait()
        self._guardian = None

    def _furnish(self) -> None:
        """What is needed between the making of the namespaces and the configuration of their devices."""

    def _start_guardian(self) -> None:
        program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py"))]
        self._guardian = subprocess.Popen(
            [*program, self._tag, str(os.getpid())], stdin=subprocess.PIPE, start_new_session=True
        )

    def _namespace(self, place: str) -> str:
        return self._tag + place

    def _enter(self, place: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(place)]

    def _set_ports(self, index: int, state: str) -> None:
        for place, device in self._ports[index]:
            execute([*self._enter(place), "ip", "link", "set", device, state])

    def _sent(self, place: str, device: str) -> int:
        """Bytes that a device has sent."""
        told = json.loads(execute([*self._enter(place), "ip", "-s", "-j", "link", "show", "dev", device]))
        return int(told[0]["stats64"]["tx"]["bytes"])


class RelayedLaboratory(Laboratory):
    """One whose switch holds a relay; ``port_of``: the port of the relay behind which each host is."""

    def __init__(
        self,
        relay: RelayProcess,
        port_of: Sequence[int],
        blueprint: Blueprint,
        description: Description,
        addresses: Sequence[str],
        ports: Sequence[Sequence[tuple[str, str]]],
        hub_address: str,
    ):
        super().__init__(blueprint, description, addresses, ports, hub_address)
        self._relay = relay
        self._port_of = port_of

    @property
    def relay_pid(self) -> int:
        return self._relay.pid

    def counters(self) -> list[list[dict[str, int]]]:
        """Of the relay, by [from][to] port: "packets", "bytes", packets "lost" and "overflowed"."""
        return self._relay.counters()

    def change(self, delay: float | None = None, loss: float | None = None) -> None:
        """Another delay (seconds one way) or loss between all ports of the relay."""
        n = len(self._relay.ports)
        self._relay.change(
            None if delay is None else square(n, lambda s, t: delay),
            None if loss is None else square(n, lambda s, t: loss),
        )

    def describe(self) -> Description:
        delay, loss, port = self._relay.delay, self._relay.loss, self._port_of
        return replace(
            self._description,
            latency=square(self.hosts, lambda s, t: delay[port[s]][port[t]] if port[s] != port[t] else 0.0),
            loss=square(self.hosts, lambda s, t: loss[port[s]][port[t]] if port[s] != port[t] else 0.0),
        )

    def _furnish(self) -> None:
        self._relay.start(self._enter(SWITCH))

    def close(self) -> None:
        self._relay.end()
        super().close()
