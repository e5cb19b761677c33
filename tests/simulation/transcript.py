"""Histories of one group as tables that a person can read: time, event, and what the coordinator then says.

    play('''
        0.0  a join         => a<welcome 1
        0.1  b join         => b<welcome 2; a,b<view 1 [a b] admitted 0:0; a,b<pending 0
        0.2  b drops
        0.3  a accuse 1 b   => b<evicted; a<halt 1/1
        0.3  a state 1/1 0:4/5  => a<view 2 [a] 0:4
    ''', min_size=2)

Events (``e/r`` is epoch/round, ``g:s`` communicator:operation, ``X`` any text that stands for a call):
    a join | a here | a ready e | a leave | a drops | a echo (of the newest pulse) | tick
    a state e/r g:complete/entered[members] ...     (members default to those of the view)
    a accuse e b [closed|unacked]
    a unreachable e b number [dialled]
    a call_me e b g
    a stalled|expired|mismatch|call e g:s X [on b,c]
    run [silent b,c]     let time pass tick by tick up to this line's time; all but the silent echo at once
Effects: `receivers<message`, the messages in order, those that go to several receivers in a row written once. ``alive``
and pulses are left out. An outcome is `g:decided`, `g:decided..consumed kind` where operations fail.
A way is `pair#number` and how: direct, reversed, via whom.
A line without ``=>`` says nothing about its effects, one with an empty right side says that there are none.
"""

from __future__ import annotations

import re
from typing import Any

from collcomm.membership import GroupMachine
from collcomm.membership.effects import CoordinatorEffect, Ping, Send
from collcomm.membership.messages import decode, encode
from collcomm.membership.presets import LAN, Limits


class Transcript:
    """A group machine and the table that drives it; ``texts`` keeps what people would read, per kind of message."""

    def __init__(self, min_size: int = 1, on_failure: str = "retry", limits: Limits = LAN):
        self.group = GroupMachine("run", "incarnation", b"8 bytes!", limits)
        self.options = {"min_size": min_size, "on_failure": on_failure}
        self.now = 0.0
        self.ids: dict[str, int] = {}
        self.newest_pulse: dict[str, int] = {}
        self.texts: list[str] = []
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def play(self, table: str) -> Transcript:
        """Run every line of ``table``; a line whose effects differ fails with both."""
        for line in filter(None, (line.strip() for line in table.splitlines())):
            left, arrow, right = line.partition("=>")
            at, event = left.split(None, 1)
            self.messages.clear()
            happened = self._shorten(self._happen(float(at), event.split()))
            expected = [part.strip() for part in right.split(";") if part.strip()]
            assert not arrow or happened == expected, f"\n{line}\nexpected: {expected}\nhappened: {happened}"
        return self

    def _happen(self, at: float, words: list[str]) -> list[CoordinatorEffect]:
        assert at >= self.now, "time runs forward"
        if words[0] == "run":
            silent = words[2].split(",") if len(words) > 2 else []
            return self._run(at, silent)
        self.now = at
        if words[0] == "tick":
            return self._seen(self.group.tick(at))
        name, event, *rest = words
        key = name.encode()
        if event == "drops":
            return self._seen(self.group.disconnected(at, key))
        if event == "echo":
            return self._seen(self.group.echo(at, key, self.newest_pulse[name]))
        message = decode(encode({"t": event, **self._fields(name, event, rest)}))
        return self._seen(self.group.receive(at, key, message))

    def _run(self, until: float, silent: list[str]) -> list[CoordinatorEffect]:
        effects = []
        while self.now < until:
            self.now = min(until, self.now + self.group.tick_seconds)
            effects += self._seen(self.group.tick(self.now))
            for name, pulse in list(self.newest_pulse.items()):
                if name not in silent:
                    effects += self._seen(self.group.echo(self.now, name.encode(), pulse))
        return effects

    def _fields(self, name: str, event: str, rest: list[str]) -> dict[str, Any]:
        if event == "join":
            host = {"host": "10.0.0.1", "port": 4711, "host_id": "", "offers": "", "site": ""}
            given = dict(word.split("=") for word in rest)
            options: dict[str, Any] = {**self.options, **given}
            return {"group": "run", "name": name.rstrip("'"), **host, **options, "min_size": int(options["min_size"])}
        if event in ("here", "leave"):
            return {}
        if event == "ready":
            return {"epoch": int(rest[0])}
        if event == "state":
            epoch, number = map(int, rest[0].split("/"))
            return {"epoch": epoch, "round": number, "groups": dict(map(self._report, rest[1:]))}
        if event == "accuse":
            evidence = rest[2] if len(rest) > 2 else "closed"
            return {"epoch": int(rest[0]), "member": self.ids[rest[1]], "evidence": evidence, "text": "EOF"}
        if event == "unreachable":
            fields = {"epoch": int(rest[0]), "member": self.ids[rest[1]], "number": int(rest[2]), "text": "refused"}
            return {**fields, "dialled": self.ids[rest[-1] if len(rest) > 3 else rest[1]]}
        if event == "call_me":
            place = {"epoch": int(rest[0]), "member": self.ids[rest[1]], "gid": int(rest[2])}
            return {**place, "purpose": 0, "stream": 0, "streams": 1}
        gid, seq = map(int, rest[1].split(":"))
        call = [sum(rest[2].encode()), rest[2]]
        fields = {"epoch": int(rest[0]), "gid": gid, "seq": seq, "call": call}
        if event != "call":
            fields["members"] = list(self.group.view.ids)
        if event in ("stalled", "expired"):
            fields["waiting_on"] = [self.ids[other] for other in rest[4].split(",")] if len(rest) > 4 else []
        return fields

    def _report(self, word: str) -> tuple[int, list[Any]]:
        match = re.fullmatch(r"(\d+):(\d+)/(\d+)(?:\[(.*)\])?", word)
        assert match, word
        gid, complete, entered = map(int, match.groups()[:3])
        members = self.group.view.ids if match[4] is None else [self.ids[name] for name in match[4].split(",")]
        return gid, [complete, entered, list(members)]

    def _seen(self, effects: list[CoordinatorEffect]) -> list[CoordinatorEffect]:
        for effect in effects:
            if isinstance(effect, Ping):
                self.newest_pulse[effect.key.decode()] = effect.number
            elif isinstance(effect, Send):
                message = decode(encode(effect.message))  # whatever is sent must be fit to be sent
                name = effect.key.decode()
                self.messages.append((name, message))
                self.texts += [message[field] for field in ("text", "cause") if field in message]
                if message["t"] == "welcome":
                    self.ids[name] = message["member"]
        return effects

    def _shorten(self, effects: list[CoordinatorEffect]) -> list[str]:
        lines: list[tuple[list[str], str]] = []
        for effect in effects:
            if not isinstance(effect, Send) or effect.message["t"] == "alive":
                continue
            text, name = self._text(dict(effect.message)), effect.key.decode()
            if lines and lines[-1][1] == text and name not in lines[-1][0]:
                lines[-1][0].append(name)
            else:
                lines.append(([name], text))
        return [f"{','.join(names)}<{text}" for names, text in lines]

    def _text(self, message: dict[str, Any]) -> str:
        kind = message["t"]
        if kind == "welcome":
            return f"welcome {message['member']}"
        if kind == "halt":
            return f"halt {message['epoch']}/{message['round']}"
        if kind == "inquire":
            return f"inquire {message['gid']}:{message['seq']}"
        if kind == "way":
            return f"way {self._way(message['way'])}"
        if kind == "called":
            return f"called {self._name(message['member'])} {message['gid']}"
        if kind == "pending":
            return f"pending {message['count']}"
        if kind != "view":
            return str(kind)
        parts = [f"view {message['epoch']} [{' '.join(row[1] for row in message['members'])}]"]
        parts += ["admitted"] * message["admitted"]
        for gid, (decided, consumed, verdict) in message["outcomes"].items():
            failed = f"..{consumed} {verdict[0]}" if consumed > decided else ""
            parts.append(f"{gid}:{decided}{failed}")
        parts += [f"broken {self._name(first)}-{self._name(second)}" for first, second in message["broken"]]
        parts += [self._way(row) for row in message["ways"]]
        return " ".join(parts)

    def _name(self, member: int) -> str:
        return next(name for name, number in self.ids.items() if number == member)

    def _way(self, row: list[int]) -> str:
        first, second, number, kind, relay = row
        how = ("direct", "reversed", f"via {self._name(relay)}" if relay else "")[kind]
        return f"{self._name(first)}-{self._name(second)}#{number} {how}"


def play(table: str, min_size: int = 1, on_failure: str = "retry", limits: Limits = LAN) -> Transcript:
    """A new group, and the table run on it."""
    return Transcript(min_size, on_failure, limits).play(table)


def three(on_failure: str = "retry") -> Transcript:
    """a, b and c, ids 1 to 3, in view 1."""
    return play(
        """
        0.0  a join  => a<welcome 1
        0.0  b join  => b<welcome 2
        0.0  c join  => c<welcome 3; a,b,c<view 1 [a b c] admitted 0:0; a,b,c<pending 0
        """,
        min_size=3,
        on_failure=on_failure,
    )
