"""A process that fits one traffic plan: JSON in a file whose descriptor it is given, a line of JSON out. Coordinators run it,
so that planning takes no time from peers, and none from those who wait for the coordinator.

It ends when its owner does: the owner keeps the other end of its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading

from .membership.messages import Message
from .membership.plans import link_row_of, plan_message
from .planner.fit import fit
from .planner.measured import Place
from .types import Member, View

CPU_SECONDS = 60  # whatever the group, no plan is worth more
NICENESS = 10


def main() -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    try:
        with open(int(sys.argv[1]), "rb") as question:
            print(json.dumps(_planned(json.load(question))), flush=True)
    except Exception as error:  # the coordinator is told, and goes on without a new plan
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return 1
    return 0


def _planned(asked: Message) -> Message:
    view = View(asked["epoch"], tuple(Member(*row) for row in asked["members"]))
    places = [Place(member.id, host, member.site) for member, host in zip(view.members, view.hosts, strict=True)]
    rows = [link_row_of(row) for row in asked["rows"]]
    return plan_message(fit(places, rows, asked["order"], asked["effort"]))


def _end_with_owner() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the thread that reads would hold up the interpreter's end
