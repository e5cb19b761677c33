"""Whose namespaces are whose, and how they go when their owner is killed.

A laboratory names its namespaces for the process that owns it, and starts this module as a process of its own. That process
holds a pipe from the owner and watches the owner itself; when the owner ends without having said that all is tidy, it kills
what still runs inside the namespaces (relays, peers) and deletes them. It imports the standard library alone and is run by its
path, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PREFIX = "cc"  # all namespaces of all laboratories begin with it and the process id
TIDY = b"."  # what an owner writes that has cleaned up itself
_FOLDER = "/var/run/netns"
_NAME = re.compile(rf"{PREFIX}(\d+)(?:n(\d+)\D.*|try)")
_ATTEMPTS = 20
_ATTEMPT_SECONDS = 0.1
_DELETE_SECONDS = 60.0


def names(wanted: Callable[[str], bool]) -> list[str]:
    """The namespaces of this machine whose name is ``wanted``."""
    try:
        return sorted(name for name in os.listdir(_FOLDER) if wanted(name))
    except FileNotFoundError:
        return []  # none was ever made


def belongs(name: str, tag: str) -> bool:
    """Whether a namespace is one of the laboratory ``tag`` ("cc12n1" owns "cc12n1h0", not "cc12n10h0")."""
    return name.startswith(tag) and not name[len(tag) : len(tag) + 1].isdigit()


def delete(doomed: list[str]) -> None:
    """Delete namespaces, and with them their links, in one go; what does not exist is passed over."""
    if doomed:
        lines = "".join(f"netns del {name}\n" for name in doomed)
        command = ["ip", "-force", "-batch", "-"]
        subprocess.run(command, input=lines, text=True, capture_output=True, check=False, timeout=_DELETE_SECONDS)


def kill_inside(doomed: list[str]) -> int:
    """SIGKILL all that runs in these namespaces; returns to how many processes."""
    inside = set()
    for name in doomed:
        try:
            inside.add(_identity(f"{_FOLDER}/{name}"))
        except OSError:
            pass  # gone meanwhile
    killed = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if _identity(f"/proc/{entry}/ns/net") in inside:
                    os.kill(int(entry), signal.SIGKILL)
                    killed += 1
            except OSError:
                pass  # it ended
    return killed


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def clean(wanted: Callable[[str], bool]) -> list[str]:
    """Kill what runs in the ``wanted`` namespaces and delete them; returns their names."""
    found = names(wanted)
    for _ in range(_ATTEMPTS):  # an owner that dies while it builds may have one more on the way
        doomed = names(wanted)
        if not kill_inside(doomed) and not doomed:
            break
        delete(doomed)
        time.sleep(_ATTEMPT_SECONDS)
    return found


def sweep() -> list[str]:
    """Remove what owners left behind that are dead and whose guardian was killed, too; returns the names of the namespaces.

    A process id is judged on this machine as this process sees it: do not sweep from a container that shares the folder of
    namespaces with others but not their processes.
    """
    return clean(_is_left_over)


def _is_left_over(name: str) -> bool:
    matched = _NAME.fullmatch(name)
    return matched is not None and not os.path.exists(f"/proc/{matched.group(1)}")


def main(tag: str, owner: int) -> None:
    """Wait for the end of ``owner``, or of its pipe on standard input; then clean unless it has."""
    watched = [0]
    try:
        watched.append(os.pidfd_open(owner))  # a forked child may hold the pipe open after its death
    except ProcessLookupError:
        pass
    readable, _, _ = select.select(watched, [], [])
    if 0 not in readable or os.read(0, 1) != TIDY:
        clean(lambda name: belongs(name, tag))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
