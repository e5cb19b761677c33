"""One history from its options, and many."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from .faults import cause_faults
from .world import Options, World

__all__ = ["Options", "Outline", "Violation", "live"]


class Violation(AssertionError):
    """A promise was broken; the text holds the options that replay it, and what had happened."""


@dataclass(frozen=True)
class Outline:
    """What a history that broke no promise contained."""

    views: int
    operations: int
    eras_ended: int  # see `ledger`: what happened is outside of what is promised
    log: tuple[str, ...]


def live(options: Options) -> Outline:
    """Let one history happen. Raises Violation."""
    world = World(options)
    try:
        world.run(cause_faults)
    except Exception as error:  # whatever trips, in whatever part, is a finding
        text = "\n".join([f"collcomm simulate {options}", *world.log_lines, f"{type(error).__name__}: {error}"])
        raise Violation(text) from error
    finally:
        world.close()
    outline = Outline(len(world.ledger.views), len(world.ledger.fates), world.ledger.eras_ended, tuple(world.log_lines))
    del world
    if options.seed % 50 == 0:
        gc.collect()
    return outline
