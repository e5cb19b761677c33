"""The `collcomm` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import __version__, keys, tuning
from .bench import command as bench
from .chaos import command as chaos
from .console import doctor, offline, status, top
from .console.jsonlog import log_as
from .errors import CollcommError
from .health.policy import Action, Policy
from .membership import PRESETS, Journal, Store, read_secret, serve
from .membership.server import LOOPBACK
from .plan import command as plan
from .rendezvous import Coordinator
from .simulate import command as simulate

_CAUSED = {"slow": "slow operations", "hang": "operations that hang", "corruption": "wrong results"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="collcomm", description="Collective communication over changing groups.")
    parser.add_argument("--version", action="version", version=f"collcomm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    coordinator = commands.add_parser("coordinator", help="run the rendezvous that peers join")
    coordinator.add_argument(
        "--bind",
        metavar="HOST:PORT",
        help="default: port 48148, of the loopback interface unless one of these is given:",
    )
    who = coordinator.add_mutually_exclusive_group()
    who.add_argument("--secret-file", type=Path, metavar="FILE", help="peers have to know what stands in it")
    who.add_argument(
        "--keys", type=Path, metavar="DIR", help="peers need keys that 'collcomm keys' has made with these"
    )
    coordinator.add_argument("--insecure", action="store_true", help="let everybody join who can reach the port")
    coordinator.add_argument("--network", choices=sorted(PRESETS), default="lan", help="time limits to go by")
    coordinator.add_argument(
        "--journal", metavar="DIR", help="write views down there, and go on from them when restarted"
    )
    coordinator.add_argument(
        "--etcd", metavar="URL[,URL]", help="several coordinators: views and the leader's lease are kept in this etcd"
    )
    coordinator.add_argument(
        "--cluster", default="default", help="with --etcd: whom this one stands in for; %(default)s"
    )
    coordinator.add_argument("--advertise", metavar="HOST:PORT", help="with --etcd: how peers name this coordinator")
    coordinator.add_argument(
        "--relay-port",
        type=int,
        default=0,
        metavar="PORT",
        help="where this process joins peers that cannot dial each other and have no third between them; default: a free one",
    )
    for what, default in (("slow", Policy.slow), ("hang", Policy.hang), ("corruption", Policy.corruption)):
        coordinator.add_argument(
            f"--on-{what}",
            choices=[action.value for action in Action],
            default=default.value,
            help=f"what is done about who is found to be the cause of {_CAUSED[what]}; default: %(default)s",
        )
    coordinator.add_argument(
        "--cooldown",
        type=float,
        default=Policy.cooldown,
        metavar="SECONDS",
        help="for which whoever is evicted is not let in again; default: %(default)g",
    )
    coordinator.add_argument(
        "--dashboard",
        metavar="[HOST:]PORT",
        help="show the groups on a page, to whoever can reach it; default host: loopback",
    )
    coordinator.add_argument(
        "--dashboard-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name by which people ask for the page, besides addresses and this machine's own name; may be repeated",
    )
    coordinator.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: an object a line, with the facts of events",
    )
    coordinator.set_defaults(run=_coordinator)
    status.add_arguments(commands.add_parser("status", help="one look at what a coordinator's groups are doing"))
    top.add_arguments(commands.add_parser("top", help="the same, live"))
    doctor.add_arguments(commands.add_parser("doctor", help="find out what is wrong between here and a coordinator"))
    keys.add_arguments(commands.add_parser("keys", help="make keys and certificates for a coordinator and its peers"))
    bench.add_arguments(commands.add_parser("bench", help="time collectives, also against torch's Gloo"))
    tune = commands.add_parser("tune", help="measure what strided transfers cost on this machine, and remember it")
    tune.set_defaults(run=tuning.run)
    simulate.add_arguments(commands.add_parser("simulate", help="attack the protocol with seeded random histories"))
    plan.add_arguments(commands.add_parser("plan", help="predict what collectives will cost on a network, and draw it"))
    chaos.add_arguments(
        commands.add_parser("chaos", help="run your program while peers die, hang and lose their links")
    )
    offline.add_trace_arguments(commands.add_parser("trace", help="make a trace of what flight recorders remember"))
    offline.add_report_arguments(commands.add_parser("report", help="make a report of what flight recorders remember"))
    options = parser.parse_args(arguments)
    try:
        result: int = options.run(options)
    except (CollcommError, ValueError, OSError) as error:
        print(f"collcomm: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return result


def _coordinator(options: argparse.Namespace) -> int:
    log_as(options.log_format)
    secret = None if options.secret_file is None else read_secret(options.secret_file)
    store = _store(options)
    serve(
        lambda: Coordinator(
            options.bind,
            policy=_policy(options),
            dashboard=options.dashboard,
            dashboard_names=options.dashboard_name,
            limits=PRESETS[options.network],
            secret=secret,
            keys=options.keys,
            insecure=options.insecure,
            store=store,
            relay_port=options.relay_port,
        )
    )
    return 0


def _policy(options: argparse.Namespace) -> Policy:
    return Policy(
        Action(options.on_slow),
        Action(options.on_hang),
        Action(options.on_corruption),
        cooldown=options.cooldown,
    )


def _store(options: argparse.Namespace) -> Store | None:
    if options.journal and options.etcd:
        raise ValueError("--journal and --etcd exclude each other: etcd keeps the views, too")
    if options.journal:
        return Journal(options.journal)
    if options.etcd:
        try:
            from .membership.etcd import EtcdStore
        except ImportError as error:
            raise CollcommError(f"--etcd needs {error.name}: pip install 'collcomm[etcd]'") from None
        return EtcdStore(options.etcd, options.cluster, options.advertise or options.bind or LOOPBACK)
    return None
