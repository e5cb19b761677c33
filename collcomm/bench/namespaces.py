"""A small network on this machine: namespaces as hosts on a bridge, their links shaped with ``tc tbf``. Needs root.

Everything lives in namespaces that are made here and deleted again; the machine's own network is not touched.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType

PREFIX = "cc"  # all namespaces of all networks begin with it and the process id
HUB = 200  # the hub's number in the network, behind those of all hosts
MAX_HOSTS = 100
BUCKET_BYTES = 256 << 10  # what tbf lets through at once: two full-sized segments of the kernel's offloading
QUEUE_SECONDS = 0.05
COMMAND_SECONDS = 30.0

_numbers = itertools.count()


def missing_for_namespaces(*more: str) -> str | None:
    """Why namespaces cannot be made here (``more``: further programs that are needed), or None."""
    missing = [tool for tool in ("ip", "tc", *more) if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, nftables)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = f"{PREFIX}{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", tried], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", tried], capture_output=True, check=False)
    return f"no network namespace can be made: {made.stderr.strip()}" if made.returncode else None


class Network:
    """``hosts`` namespaces on one bridge. ``rate``: bytes/s that each may send, and receive; None: unlimited.

    The bridge has a namespace of its own, the hub, with an address: the place for a coordinator.
    """

    def __init__(self, hosts: int, rate: float | None = None, ipv6: bool = False):
        if not 1 <= hosts <= MAX_HOSTS:
            raise ValueError(f"a network has 1 to {MAX_HOSTS} hosts, not {hosts}")
        reason = missing_for_namespaces()
        if reason is not None:
            raise PermissionError(reason)
        self.hosts = hosts
        self._rate = rate
        self._ipv6 = ipv6
        self._tag = f"{PREFIX}{os.getpid()}n{next(_numbers)}"
        self._hub = f"{self._tag}hub"
        self._made: list[str] = []

    @property
    def hub_address(self) -> str:
        return self._address(HUB)

    def address(self, index: int) -> str:
        """Of host ``index``, as it is written before a port."""
        return self._address(index + 1)

    def enter(self, index: int | None) -> list[str]:
        """The start of a command line that runs the rest in host ``index``; None: in the hub."""
        return ["ip", "netns", "exec", self._name(index)]

    def run(self, index: int | None, *command: str) -> str:
        """Run a command in host ``index`` (None: the hub); returns what it prints. Raises RuntimeError if it fails."""
        return _run([*self.enter(index), *command])

    def unplug(self, index: int) -> None:
        """Pull the cable of host ``index``: it loses its carrier, the others are told nothing."""
        self.run(None, "ip", "link", "set", f"port{index}", "down")

    def plug_in(self, index: int) -> None:
        self.run(None, "ip", "link", "set", f"port{index}", "up")

    def cut(self, index: int, other: int) -> None:
        """Drop silently all that passes between two hosts; both still reach the hub and everybody else."""
        family = "ip6" if self._ipv6 else "ip"
        address = self.address(other).strip("[]")
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
        self.run(index, "nft", f"delete table {'ip6' if self._ipv6 else 'ip'} cut")

    def __enter__(self) -> Network:
        try:
            self._host(self._hub)
            self.run(None, "ip", "link", "add", "bridge", "type", "bridge")
            self._set_address(None, "bridge", HUB)
            for index in range(self.hosts):
                self._host(self._name(index))
                self._plug(index)
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
        while self._made:
            subprocess.run(["ip", "netns", "del", self._made.pop()], capture_output=True, check=False)

    def _name(self, index: int | None) -> str:
        return self._hub if index is None else f"{self._tag}h{index}"

    def _address(self, host: int) -> str:
        return f"[fd00:48::{host:x}]" if self._ipv6 else f"10.48.0.{host}"

    def _host(self, name: str) -> None:
        _run(["ip", "netns", "add", name])
        self._made.append(name)
        _run(["ip", "-n", name, "link", "set", "lo", "up"])

    def _plug(self, index: int) -> None:
        """Join host ``index`` to the bridge by a cable whose ends are "eth0" and "port{index}"."""
        port = f"port{index}"
        self.run(None, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self._name(index))
        self.run(None, "ip", "link", "set", port, "master", "bridge", "up")
        self._set_address(index, "eth0", index + 1)
        if self._rate is not None:
            shape = f"rate {self._rate * 8:.0f}bit burst {BUCKET_BYTES} latency {QUEUE_SECONDS * 1e3:.0f}ms"
            self.run(index, *f"tc qdisc add dev eth0 root tbf {shape}".split())
            self.run(None, *f"tc qdisc add dev {port} root tbf {shape}".split())

    def _set_address(self, index: int | None, device: str, host: int) -> None:
        address = self._address(host).strip("[]")
        options = ["nodad"] if self._ipv6 else []  # the address is usable at once
        self.run(index, "ip", "addr", "add", f"{address}/{64 if self._ipv6 else 24}", "dev", device, *options)
        self.run(index, "ip", "link", "set", device, "up")


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
