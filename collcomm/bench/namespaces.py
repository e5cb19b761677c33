"""A small network on this machine: namespaces as hosts, joined by a bridge, their links shaped with ``tc tbf``. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType


class Network:
    """``hosts`` namespaces on one bridge. ``rate``: bytes/s that each may send, and receive; None: unlimited.

    The bridge lives in a namespace of its own, so that nothing of the machine's network is touched; this process reaches it
    through a veth pair, on ``hub_address``.
    """

    def __init__(self, hosts: int, rate: float | None = None, ipv6: bool = False):
        missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
        if os.geteuid() != 0 or missing:
            raise PermissionError(f"network namespaces need root and iproute2 (missing: {missing or 'root'})")
        self.hosts = hosts
        self._rate = rate
        self._ipv6 = ipv6
        self._tag = f"cc{os.getpid() % 100000}"
        self._switch = f"{self._tag}s"
        self._net = os.getpid() % 200 + 20
        self._made: list[str] = []

    @property
    def hub_address(self) -> str:
        return self._address(200)

    def address(self, index: int) -> str:
        """Of host ``index``."""
        return self._address(index + 1)

    def namespace(self, index: int) -> str:
        return f"{self._tag}h{index}"

    def enter(self, index: int) -> list[str]:
        """The start of a command line that runs the rest in host ``index``."""
        return ["ip", "netns", "exec", self.namespace(index)]

    def _address(self, host: int) -> str:
        return f"[fd00:{self._net:x}::{host:x}]" if self._ipv6 else f"10.{self._net}.0.{host}"

    def __enter__(self) -> Network:
        try:
            self._namespace(self._switch)
            self._in(self._switch, "ip link add hub type bridge")
            self._in(self._switch, "ip link set hub up")
            self._plug(None, 200, f"{self._tag}u")
            for index in range(self.hosts):
                self._namespace(self.namespace(index))
                self._plug(self.namespace(index), index + 1, f"{self._tag}p{index}")
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
        subprocess.run(["ip", "link", "del", f"{self._tag}u"], capture_output=True, check=False)
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        self._made.clear()

    def run(self, index: int, command: Sequence[str]) -> str:
        """Run a command in host ``index``; returns what it prints."""
        return _run([*self.enter(index), *command])

    def unplug(self, index: int) -> None:
        """Pull the cable of host ``index``."""
        self._in(self._switch, f"ip link set {self._tag}p{index} down")

    def plug_in(self, index: int) -> None:
        self._in(self._switch, f"ip link set {self._tag}p{index} up")

    def _namespace(self, name: str) -> None:
        _run(["ip", "netns", "add", name])
        self._made.append(name)
        self._in(name, "ip link set lo up")

    def _plug(self, name: str | None, host: int, port: str) -> None:
        """Join a namespace (None: where we are) to the bridge by a cable whose ends are "eth0" and ``port``."""
        inner = port if name is None else "eth0"
        far = f"{port}b" if name is None else port
        _run(["ip", "link", "add", far, "netns", self._switch, "type", "veth", "peer", "name", inner, *_netns(name)])
        self._in(self._switch, f"ip link set {far} master hub up")
        address = self._address(host).strip("[]")
        prefix, nodad = ("64", ["nodad"]) if self._ipv6 else ("24", [])
        self._in(name, f"ip addr add {address}/{prefix} dev {inner} {' '.join(nodad)}".strip())
        self._in(name, f"ip link set {inner} up")
        if self._rate is not None and name is not None:
            shape = f"rate {self._rate * 8:.0f}bit burst 256kb latency 50ms"
            self._in(name, f"tc qdisc add dev {inner} root tbf {shape}")
            self._in(self._switch, f"tc qdisc add dev {far} root tbf {shape}")

    def _in(self, name: str | None, command: str) -> None:
        _run([*(["ip", "netns", "exec", name] if name else []), *command.split()])


def _netns(name: str | None) -> list[str]:
    return ["netns", name] if name else []


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
