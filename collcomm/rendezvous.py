"""The coordinator as users know it: the membership's server, with somebody who watches over the health of its groups."""

from __future__ import annotations

from typing import Any

from .health.policy import Policy
from .health.service import HealthService
from .membership import server


class Coordinator(server.Coordinator):
    """Rendezvous and referee of groups; runs on a thread of its own until `close`. Finds out which member or link is sick.

    :param bind: "host:port" to listen on, as of `collcomm.membership.Coordinator`, which has the other parameters.
    :param policy: what is done about what is found, see `collcomm.health.policy`; None: slow links are avoided, the rest is
        reported.
    """

    def __init__(self, bind: str | None = None, *, policy: Policy | None = None, **options: Any):
        super().__init__(bind, attendant=HealthService(policy), **options)
