"""One rank's process: joins, runs the checks of some modules in order, and ends at the first that fails."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from tests.torch_backend.clients.place import Place, here, join

CHECK_SECONDS = 30.0  # a module may have its own
PREFIX = "check_"
ALONE = {"lifecycle", "accelerating"}  # their checks join by themselves


def checks_of(modules: list[str]) -> dict[str, tuple[Callable[[Place], None], float]]:
    """By "module.name", in the order in which they are defined; with their bounds."""
    found = {}
    for name in modules:
        module = importlib.import_module(f"tests.torch_backend.clients.{name}")
        seconds = getattr(module, "CHECK_SECONDS", CHECK_SECONDS)
        checks = {key.removeprefix(PREFIX): value for key, value in vars(module).items() if key.startswith(PREFIX)}
        found |= {f"{name}.{key}": (check, seconds) for key, check in checks.items()}
    return found


def main(modules: list[str], asked: list[str]) -> None:
    place = here()
    checks = checks_of(modules)
    with (place.folder / f"events-{place.rank}").open("a", buffering=1) as events:

        def tell(**event: Any) -> None:
            print(json.dumps(event), file=events)

        tell(checks=list(checks))
        if not ALONE.intersection(modules):
            join(place)
        for name in asked or list(checks):
            check, seconds = checks[name]
            started = time.monotonic()
            faulthandler.dump_traceback_later(seconds, exit=True)
            torch.manual_seed(7)
            tell(began=name)
            try:
                check(place)
            except BaseException:
                tell(failed=name, text=traceback.format_exc())
                os._exit(1)  # others may wait in a collective for ever: whoever started them ends them
            tell(done=name, seconds=time.monotonic() - started)
    if dist.is_initialized():
        dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
