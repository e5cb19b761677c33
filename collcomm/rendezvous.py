"""The coordinator as users know it: the membership's server, with somebody who watches over the health of its groups, and a page
that shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .dashboard.server import Dashboard
from .health.policy import Policy
from .health.service import HealthService
from .membership import server


class Coordinator(server.Coordinator):
    """Rendezvous and referee of groups; runs on a thread of its own until `close`. Finds out which member or link is sick.

    :param bind: "host:port" to listen on, as of `collcomm.membership.Coordinator`, which has the other parameters.
    :param policy: what is done about what is found, see `collcomm.health.policy`; None: slow links are avoided, the rest is
        reported.
    :param dashboard: "host:port", or "port" of the loopback interface, at which a page shows the groups to whoever can reach it;
        figures for Prometheus are at /metrics there, if prometheus-client is installed. Raises CollcommError when it cannot
        listen there.
    :param dashboard_names: host names by which browsers may ask for the page, besides addresses, localhost, and this machine's
        own name: those of a proxy or of a DNS entry. A page that asks by any other is refused.
    """

    def __init__(
        self,
        bind: str | None = None,
        *,
        policy: Policy | None = None,
        dashboard: str | None = None,
        dashboard_names: Sequence[str] = (),
        **options: Any,
    ):
        super().__init__(bind, attendant=HealthService(policy), **options)
        self.dashboard: Dashboard | None = None
        if dashboard is not None:
            try:
                self.dashboard = Dashboard(
                    dashboard, self._shown, lambda: self.groups, self._metrics(), dashboard_names
                )
                self.dashboard.start()
            except BaseException:
                self.close()
                raise

    @property
    def page(self) -> str:
        return "" if self.dashboard is None else self.dashboard.address

    def close(self) -> None:
        if self.dashboard is not None:
            self.dashboard.close()
        super().close()

    def _shown(self, group: str | None) -> dict[str, Any] | None:
        """Of ``group``, or of the first one."""
        names = [group] if group is not None else self.groups[:1]
        return self.show(names[0]) if names else None

    def _metrics(self) -> Callable[[], bytes] | None:
        try:
            from .health.metrics import SnapshotCollector
        except ImportError:
            return None
        shown = lambda: [one for one in map(self.show, self.groups) if one is not None]  # noqa: E731
        return SnapshotCollector(shown).exposition
