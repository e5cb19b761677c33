"""One process of the user's program: started, hurt, watched through its event log, and gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bench.launch import child_environment, die_with_parent
from .record import Record

END_SECONDS = 5.0
LOG_TAIL_BYTES = 3000


@dataclass
class Peer:
    """``healing_at``: when the fault that it suffers from ends; ``excused``: it was hit in a way that may cost it its
    membership, so it may end as it likes."""

    name: str
    process: subprocess.Popen[bytes]
    record: Record
    output: Path
    spared: bool = False
    excused: bool = False
    busy_until: float = 0.0  # under a fault; no second one before
    healed_at: float = field(default=0.0)

    @classmethod
    def start(cls, name: str, command: Sequence[str], directory: Path, variables: Mapping[str, str], at: float) -> Peer:
        output = directory / f"{name}.log"
        events = directory / f"{name}.events"
        events.touch()
        with output.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,  # a signal hits what it has started, too
                env={**child_environment(), **variables, "COLLCOMM_NAME": name, "COLLCOMM_EVENTS": str(events)},
            )
        return cls(name, process, Record(name, events, at), output)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def joined(self) -> bool:
        return self.record.member is not None

    def signal(self, number: int) -> None:
        if self.alive:  # else the number may be somebody else's
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.signal(signal.SIGKILL)
        self.process.wait(END_SECONDS)

    def said(self) -> str:
        """The end of what it printed."""
        data = self.output.read_bytes()[-LOG_TAIL_BYTES:]
        return data.decode(errors="replace").strip()
