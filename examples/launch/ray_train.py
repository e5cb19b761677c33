"""Peers as Ray actors, placed by Ray: one that is killed comes back as a newcomer, one that is preempted leaves and is replaced.

    python examples/launch/ray_train.py                                 # three peers on this machine
    python examples/launch/ray_train.py --address auto --peers 8 --gpus 1      # on the Ray cluster that this machine belongs to

needs `pip install ray`. The coordinator lives in this process, as Ray's job does. Ray starts an actor that has died again, on
another node if need be (max_restarts), and its training with it (max_task_retries). The worker of a preempted actor gets SIGTERM,
or somebody calls the actor's `leave`: either way it leaves at its next safe point, and this process has another one started.
SIGTERM to this process has all of them leave.

Exit status: 0 if all peers that came to the end hold the same bits, 1 if not; 2 if Ray is missing.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import collcomm

try:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError:
    print("ray_train.py: Ray is missing: pip install 'ray>=2.9'", file=sys.stderr)
    sys.exit(2)

HERE = str(Path(__file__).resolve().parent)
POLL_SECONDS = 0.5
PLACING_SECONDS = 300.0
GRACE_SECONDS = 25.0  # Ray gives a draining node 30 by default


@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"control": 1})
class Peer:
    """One peer. Its constructor runs in the main thread of its process, where signals come; calls run in other threads."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        # Ray's own handler would end the process at once, so it is not called
        self.leaving = collcomm.on_preemption(grace=GRACE_SECONDS, chain=False).__enter__()

    def train(self, options: list[str], joining: dict[str, Any]) -> dict[str, Any]:
        import train

        return train.take_part(train.arguments(options), self.leaving, **joining)

    @ray.method(concurrency_group="control")
    def leave(self) -> None:
        self.leaving.ask()


REMOTE: Any = Peer  # what the decorator has made of it, which types do not tell


class Job:
    """The actors, each in its bundle of the placement group."""

    def __init__(self, chosen: argparse.Namespace, address: str, secret: str):
        bundle = {"CPU": chosen.cpus} | ({"GPU": chosen.gpus} if chosen.gpus else {})
        self._chosen = chosen
        self._replacements = chosen.replacements
        self._joining = {"coordinator": address, "secret": secret, "min_size": chosen.peers}
        self.group = placement_group([bundle] * chosen.peers, strategy="SPREAD")
        ray.get(self.group.ready(), timeout=PLACING_SECONDS)
        self._running: dict[Any, tuple[Any, int]] = {}  # what train() will return -> actor, bundle

    def start(self, bundle: int) -> None:
        chosen = self._chosen
        place = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=bundle)
        actor = REMOTE.options(num_cpus=chosen.cpus, num_gpus=chosen.gpus, scheduling_strategy=place).remote(HERE)
        self._running[actor.train.remote(chosen.train, self._joining)] = actor, bundle

    def run(self, leaving: collcomm.Preemption) -> list[dict[str, Any]]:
        """Until all have ended. Returns what they say."""
        results: list[dict[str, Any]] = []
        told = False
        for bundle in range(self._chosen.peers):
            self.start(bundle)
        while self._running:
            if leaving and not told:
                told = True
                for actor, _ in self._running.values():
                    actor.leave.remote()
            for ended in ray.wait(list(self._running), timeout=POLL_SECONDS)[0]:
                actor, bundle = self._running.pop(ended)
                result = ray.get(ended)
                ray.kill(actor)
                results.append(result)
                print(json.dumps(result), flush=True)
                if result["end"] == "left" and not leaving and self._replacements and self._running:
                    self._replacements -= 1
                    self.start(bundle)
        return results


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of the Ray cluster; default: a small one of its own, on this machine")
    parser.add_argument("--peers", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--cpus", type=float, default=1, help="of a peer (default: %(default)s)")
    parser.add_argument("--gpus", type=float, default=0, help="of a peer (default: %(default)s)")
    parser.add_argument(
        "--replacements", type=int, default=8, help="for peers that were preempted (default: %(default)s)"
    )
    parser.add_argument("train", nargs="*", metavar="OPTION", help="for train.py, after --")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    own = {} if chosen.address else {"num_cpus": max(4, int(chosen.cpus * chosen.peers)), "include_dashboard": False}
    ray.init(address=chosen.address, log_to_driver=True, **own)
    secret = secrets.token_urlsafe()
    try:
        host = ray.util.get_node_ip_address()
        with (
            collcomm.on_preemption(chain=False) as leaving,
            collcomm.Coordinator(f"{host}:0", secret=secret) as coordinator,
        ):
            job = Job(chosen, coordinator.address, secret)
            results = job.run(leaving)
            remove_placement_group(job.group)
    finally:
        ray.shutdown()
    digests = {result["digest"] for result in results if result["end"] == "finished"}
    return 0 if len(digests) <= 1 and all(result["identical"] is not False for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
