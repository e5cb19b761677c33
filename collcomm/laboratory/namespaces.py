"""Network namespaces: whether they can be had here, and commands run for them. Needs root.

The machine's own network is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from .guardian import PREFIX

COMMAND_SECONDS = 60.0


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


def execute(command: Sequence[str], text: str | None = None) -> str:
    """Run a command with ``text`` on its standard input; returns what it prints. Raises RuntimeError if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
