"""What is done to whom and when: made from a seed, written as text, read back to do it again."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass

KINDS = {
    "kill": "SIGKILL; a new peer takes the place after a pause",
    "stop": "SIGSTOP for a while, then SIGCONT: short ones are waited for, longer ones lead to eviction",
    "partition": "all connections of one peer, also its line to the coordinator, carry nothing for a while",
    "cut": "the same for its data connections alone: the coordinator still hears of it",
    "slow": "its data connections get a delay and a limit in bytes per second, for a while",
    "corrupt": "one byte of a frame's header on one of its data connections is changed",
    "coordinator": "SIGKILL of the coordinator; it starts again on the same port after a pause",
    "spawn": "one more peer",
}
RELAYED = frozenset({"partition", "cut", "slow", "corrupt"})  # need the relay between the peers
SECONDS = {
    "stop": (0.2, 4.0),
    "partition": (0.5, 5.0),
    "cut": (0.3, 3.0),
    "slow": (1.0, 5.0),
    "coordinator": (0.5, 2.0),
}
DELAY = (0.005, 0.1)  # seconds, of a slow link
RATE = (1e6, 2e7)  # bytes per second, of a slow link
JITTER = 0.5  # pauses between faults are 1 - JITTER to 1 + JITTER times their mean


@dataclass(frozen=True)
class Fault:
    """``at``: seconds from the beginning of the run; ``victim``: from 0 to 1, the place among those who may be hit then;
    ``seconds``: how long it lasts; ``delay`` and ``rate``: of a slow link."""

    at: float
    kind: str
    victim: float = 0.0
    seconds: float = 0.0
    delay: float = 0.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no fault {self.kind!r}; there are {', '.join(KINDS)}")
        if self.at < 0 or not 0 <= self.victim < 1 or min(self.seconds, self.delay, self.rate) < 0:
            raise ValueError(f"a fault with impossible numbers: {self}")


def make_schedule(seed: int, kinds: Mapping[str, float], every: float, seconds: float) -> list[Fault]:
    """Faults of ``kinds`` (name -> weight), one each ``every`` seconds on average, within ``seconds``."""
    if not kinds or every <= 0:
        return []
    rng = random.Random(seed)
    names, weights = list(kinds), list(kinds.values())
    faults: list[Fault] = []
    at = 0.0
    while True:
        at += every * rng.uniform(1 - JITTER, 1 + JITTER)
        if at >= seconds:
            return faults
        kind = rng.choices(names, weights)[0]
        low, high = SECONDS.get(kind, (0.0, 0.0))
        slow = kind == "slow"
        faults.append(
            Fault(
                round(at, 3),
                kind,
                round(rng.random() * 0.9999, 4),
                round(rng.uniform(low, high), 3),
                round(rng.uniform(*DELAY), 4) if slow else 0.0,
                round(rng.uniform(*RATE)) if slow else 0.0,
            )
        )


def write_schedule(faults: list[Fault]) -> str:
    """A line of JSON for each, without what is zero."""
    return "".join(
        json.dumps({name: value for name, value in asdict(fault).items() if value or name == "at"}) + "\n"
        for fault in faults
    )


def read_schedule(text: str) -> list[Fault]:
    """The reverse of `write_schedule`. Raises ValueError that names the line."""
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            faults.append(Fault(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"line {number} of the schedule: {error}") from None
    return sorted(faults, key=lambda fault: fault.at)


def parse_kinds(text: str) -> dict[str, float]:
    """ "kill:3,stop" -> {"kill": 3.0, "stop": 1.0}. Raises ValueError."""
    kinds: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, weight = part.strip().partition(":")
        if name not in KINDS:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(KINDS)}")
        kinds[name] = float(weight or 1)
        if not 0 < kinds[name] < 1e6:
            raise ValueError(f"{part}: a weight is a positive number")
    return kinds
