"""The dashboard: a page that shows what a group is doing, served by whoever has its snapshots; works offline.

server    listens, and answers requests within limits
request   what a browser asks, read within limits
answers   what goes back, with the headers that keep a page safe
feed      one snapshot a second, made once for all who listen
page/     the page itself: plain HTML, CSS and JavaScript modules
scene     a synthetic group, for people who work on the page, and for tests
"""

from __future__ import annotations

from .server import Dashboard

__all__ = ["Dashboard"]
