"""Groups of peers inside one process: a thread each, with a real coordinator, real sockets and all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import collcomm

JOIN_SECONDS = 20.0
RUN_SECONDS = 60.0


def dress(comm: Any) -> Any:
    """What a body is given in place of its communicator; tests replace this."""
    return comm


def run_peers(n: int, body: Callable[[collcomm.Communicator], Any], **options: Any) -> list[Any]:
    """Run ``body(comm)`` at ``n`` peers; returns their results by rank, or raises the first error."""
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        return run_peers_at(coordinator.address, n, body, **options)


def run_peers_at(address: str, n: int, body: Callable[[collcomm.Communicator], Any], **options: Any) -> list[Any]:
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    def peer(number: int) -> None:
        try:
            settings = {"min_size": n, "timeout": JOIN_SECONDS, "op_timeout": 30.0, "name": f"peer-{number}", **options}
            with collcomm.join(address, **settings) as comm:
                rank = comm.rank
                results[rank] = body(dress(comm))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=peer, args=(number,), daemon=True) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(RUN_SECONDS)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a peer hangs"
    return [results[rank] for rank in sorted(results)]
