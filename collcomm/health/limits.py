"""What the diagnosis goes by: from when on a wait is a hang, how slow is sick, how long a deviation has to last."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Times in seconds; the defaults are for a LAN, whose members tell of themselves every second."""

    hang_least: float = (
        2.0  # a garbage collection, a page-out or a rewritten file holds a healthy peer up for about one
    )
    hang_most: float = 5.0  # longer only where operations usually take longer: people begin to look for a hang then
    hang_unknown: float = (
        30.0  # no operation of that class was seen yet, who is missing may be compiling or reading data
    )
    hang_many: float = 3.0  # times as long, before anybody is blamed where most are missing, or all are in other calls

    warmup: int = 5  # operations of a class, and after a view change, that say nothing: caches, buffers, slow start
    history: int = 64  # values of which usual is the median; old enough for habits, young enough to follow them
    least: int = 12  # of them before anything is judged by it
    deviations: float = 6.0  # times the spread (1.4826 MAD): of bell-shaped jitter one in 10^9 is beyond
    window: int = 12  # operations in a row that are looked at ...
    sustained: int = 10  # ... and of them so many have to deviate: found within 20, and a burst of 9 is none
    sustained_seconds: float = (
        0.5  # that these took in all: a hiccup lasts through many operations of a millisecond each
    )

    late_share: float = 0.15  # of the time between two operations of the class: less is not worth anybody's action
    last_deviations: float = 3.0  # of whoever comes last: by chance, hardly anybody does so again and again
    late_least: float = 1e-3  # the commit round lets members go within a round trip, which lateness cannot be told from
    slowed: float = 1.3  # an operation that takes so many times as long as usual has been held up by something
    idle_share: float = 0.25  # who waits for less than that of an operation is waited for, where others ...
    waiting_share: float = 0.5  # ... wait for that share of it

    flow_warmup: int = 2  # observations of a flow that say nothing
    flow_least: int = 4  # observations before a flow is judged
    flow_window: int = 4  # observations, with an operation each, in a row that are looked at ...
    flow_sustained: int = 3  # ... so many of which have to deviate; a wave of other traffic is over sooner
    flow_operations: int = 3  # that these values come from: one that is slow by chance is over with it
    flow_slow: float = 2.5  # times as many seconds per byte as usual; TCP alone varies by two
    flow_apart: float = (
        2.0  # times as much worse than the others fare: what all suffer from is the network's, or the load's
    )
    flow_plain: float = 4.0  # times as slow: then, two observations are enough
    flow_bytes: int = (
        192 << 10
    )  # of one value, at least: fewer measure who was let wait for a processor. It comes from as many
    flow_patience: int = 4  # observations as that takes, up to so many ...
    flow_least_bytes: int = 64 << 10  # ... and then so many bytes have to do; fewer measure latency
    held_window: int = 6  # observations in a row that are looked at for receivers that take nothing ...
    held_sustained: int = 5  # ... and so many of these: a few operations in each, of which one waits long by chance
    held_share: float = 0.2  # of the time, more than usual, that a receiver has let senders stand
    row_share: float = 0.75  # of the flows of a member that are slow, and its egress or ingress is

    probe_patience: float = 15.0  # a probe takes 60 ms, and more where links are slow and in use; then a guess is said
    pair_patience: float = 5.0  # of a suspected link itself, if that of others with its ends tells enough
    probe_fresh: float = 15.0  # before a suspicion; older ones may be of another fault
    probe_slow: float = 2.0  # times less than expected, at least: running traffic takes half of what a probe could have

    silent_least: float = 0.5  # seconds without an acknowledgement: beyond the first retransmissions of TCP
    flaps: int = 3  # breaks of a link within ...
    flap_seconds: float = 60.0  # ... that time: it comes and goes
    flap_apart: float = 1.5  # what both ends say of one break comes within that time
    settle: float = 2.0  # after which both ends of a link without an answer are known to live, or one to be gone

    recovery: float = 5.0  # a finding is over when nothing has spoken for it for so long
    forget: float = 60.0  # what was not heard of for so long speaks for nothing
    interval: float = 1.0  # between two observations of a member, usually
    deaf: float = 2.5  # no input for so long: this side slept, and judges nobody's silence by that
