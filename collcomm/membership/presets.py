"""Time limits of failure detection, by kind of network. Seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    pulse: float  # between two pulses to a peer
    silence_floor: float  # no echo for that long is death, however fast the network is
    silence_ceiling: float  # ... and however slow it was measured to be
    reconnect: float  # a dropped control connection may take that long to come back
    recover: float  # peers of a group whose coordinator was lost have that long to report to the next one
    answer: float  # who has not answered an inquiry by then counts as "has not entered"
    halt: float  # a member that does not answer a halt for so long is dropped
    unstick: float  # all entered the same call, nothing moves: make the links anew


LAN = Limits(
    pulse=0.2,  # six chances within the floor
    silence_floor=1.2,  # a busy machine starves a thread for some hundred ms; a stopped peer is out within 2 s
    silence_ceiling=10.0,  # beyond that users reach for ctrl-C
    reconnect=1.0,  # libzmq tries again after 0.1 s
    recover=1.5,  # a line is made anew every 0.2 s at least, a sign of life follows within 0.5 s
    answer=0.3,  # a peer answers from its own thread, in ms unless something holds its GIL
    halt=10.0,  # twice the longest stall of a live peer that should be survived
    unstick=5.0,  # ten stall reports
)
LOCAL = LAN  # one machine is no more punctual than a LAN: its cores are shared
WAN = Limits(
    pulse=0.5,  # less chatter over thin links
    silence_floor=3.0,  # a route change takes seconds
    silence_ceiling=20.0,
    reconnect=5.0,
    recover=6.0,
    answer=1.0,
    halt=20.0,
    unstick=15.0,
)
PRESETS = {"local": LOCAL, "lan": LAN, "wan": WAN}
