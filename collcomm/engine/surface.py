"""What the faces ask of a session and its groups, whatever carries them: `Session` and `Group` over the network,
`MpiSession` and `MpiGroup` over MPI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..clock import Clock
from ..errors import CollcommError
from ..transports.base import Poller
from ..transports.device import Device
from ..types import Member, TrafficPlan, View
from .choosing import Choosing, Explanation
from .handle import Conclusion, Handle
from .operation import Operation
from .queue import OperationQueue
from .request import Request


class LinkMaker(Protocol):
    def link(self, gid: int, purpose: int, member: Member, check: Callable[[], None]) -> Any: ...

    def links_at_once(self, gid: int, purpose: int, member: int) -> bool: ...

    def drop_link(self, gid: int, purpose: int, member: int, stream: Any = None) -> None: ...

    def poller(self) -> Poller: ...

    def traffic(self) -> tuple[int, int]: ...


class Admission(Protocol):
    @property
    def pending(self) -> int: ...

    def leave(self, deadline: float) -> None: ...


class Standing(Protocol):
    view: View
    epoch: int
    called: int

    def fail(self, failure: CollcommError) -> None: ...


class AnyGroup(Protocol):
    gid: int
    view: View
    queue: OperationQueue
    choosing: Choosing
    operations: int
    retries: int
    seconds_lost: float

    @property
    def progress(self) -> Standing: ...

    def run(self, operation: Operation, timeout: float) -> Any: ...

    def submit(self, operation: Operation, timeout: float, conclude: Conclusion) -> Handle: ...

    def call(self, work: Callable[[], Any], text: str, async_op: bool, conclude: Conclusion | None = None) -> Any: ...

    def stays_on_device(self, request: Request) -> bool: ...

    def show(self, view: View) -> None: ...

    def revise(self, plan: TrafficPlan, epoch: int) -> None: ...

    def explain(self, kind: str, nbytes: int) -> Explanation: ...


class AnySession(Protocol):
    member: int
    view: View
    failure: CollcommError | None
    device: Device | None
    steps: int

    @property
    def clock(self) -> Clock: ...

    @property
    def agent(self) -> Admission: ...

    @property
    def transport(self) -> LinkMaker: ...

    @property
    def groups(self) -> Any: ...

    def traffic(self) -> tuple[int, int]: ...

    def make_group(self, gid: int, members: Sequence[int], epoch_view: View) -> Any: ...

    def release(self, group: Any) -> None: ...

    def wait_admission(self, view: View, deadline: float) -> View: ...

    def offer(self, view: View) -> TrafficPlan | None: ...

    def tell_corruption(
        self, epoch: int, gid: int, seq: int, members: Sequence[int], confidence: float, text: str
    ) -> None: ...

    @property
    def dump(self) -> Callable[[str], Path | None] | None: ...

    def close(self) -> None: ...
