"""How results are checked for silent corruption: memory or processors that err without saying so.

How a checked call goes, and why all ranks go the same way. The call is one `compose` of ordinary collectives of the communicator,
so that nothing of another call comes between them, and the engine knows nothing of checks:

    1. checksums of the contribution are taken; then the collective itself runs, in a view V (after retries, perhaps);
    2. for reductions that no checksum passes through, a second one runs;
    3. an all_gather brings together what each rank knows: hashes of its contribution before and after, of its result, checksums;
    4. where these disagree, the audit: all_gathers of the suspicious blocks (at most `MOST_BLOCKS`), of what each rank makes
       of them when it reduces them again, and of what each rank concludes: a vote, and its outcome is everybody's.

What is done next follows at every rank from V, which is the same at all that take part, and from what an all_gather of the
step before has brought, which is so by the engine's commit. Neither needs a decision of one rank that others wait for. A rank
whose processor is so sick that it reads the same bytes and goes another way calls something else than the others:
`CollectiveMismatch`, which names it. A death in between is an ordinary view change of the collective that it hits. In the
collective itself (1) the survivors retry, and are checked. Afterwards, the view of the next exchange is no longer V, at all
survivors alike: what the dead gave is not known any more, so the sums tell nothing and the check is dropped (``skipped``
counts that), but for what is known already: copies that differ, contributions that have changed. With ``on_failure="raise"``
the result has been committed by then: it is returned, and PeerLost is raised by the next checked call.

Inputs. An operation in place writes into memory of this module, and the result is copied into the caller's when the check has
been passed: an audit has every contribution as it was, and a call that raises leaves all inputs intact. That takes room for one
result, kept for the next call. Checksums take up to 24 bytes for 1,024 numbers at each rank, those of all ranks while they
are compared; second runs two more arrays; an audit at most 3 * MOST_BLOCKS * 8 KiB for each rank.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkrecords import Contribution, Table
from .engine import request
from .errors import CollcommError, CorruptionDetected, PeerLost
from .health.audit import Cause, Evidence, Shown, elect, judge, judge_by_hash, judge_copies, reduce_again
from .health.checksums import Suspicion, Way, block_digests, digest, elements_of_block
from .health.corruption import Blamed, Corruption
from .health.twice import differences, second_input, second_op
from .types import View

if TYPE_CHECKING:
    from .communicator import Communicator

log = logging.getLogger("collcomm")
Array = np.ndarray[Any, Any]
Tell = Callable[[Corruption], None]
MOST_BLOCKS = 16  # of one call, that an audit looks into
MOST_KEPT = 100  # corruptions
BY_HASH = 0.8  # confidence: a majority that shares a wrong result outvotes those who have the right one


class Abandoned(Exception):
    """The members are no longer those of the operation."""


class Inspector:
    """Checks results of ``comm``. ``passed``, ``skipped``, ``audits``: how many calls were found right, could not be checked
    to the end since a member died, and were looked into; ``found``: the last `MOST_KEPT` that were wrong."""

    def __init__(self, comm: Communicator, raises: bool, tell: Tell | None):
        self._comm = comm
        self._raises = raises
        self._tell = tell
        self._owed: PeerLost | None = None
        self.passed = 0
        self.skipped = 0
        self.audits = 0
        self.found: deque[Corruption] = deque(maxlen=MOST_KEPT)

    def begin(self) -> None:
        """Raises what an earlier check found out about peers, when its own collective had succeeded already."""
        owed, self._owed = self._owed, None
        if owed is not None:
            raise owed

    # -- the checks -----------------------------------------------------------------------------------------------------

    def agree(self, call: str, seq: int, result: Array, timeout: float | None) -> None:
        """Compare hashes of ``result``; who differs from most is named, or all where there is no majority. Survivors of a
        death compare theirs. Raises CorruptionDetected."""
        try:
            rows = self._gather(digest(result), None, timeout)
        except Abandoned:
            self.skipped += 1
            return
        view, copies = self._comm.view, [row.tobytes() for row in rows]
        causes = judge_by_hash(copies)
        self._conclude(view, causes, call, seq, f"hashes of the result, {len(set(copies))} different ones", BY_HASH)

    def moved(
        self,
        call: str,
        seq: int,
        own: Contribution,
        blocks: Sequence[Array],
        owners: Sequence[int],
        timeout: float | None,
    ) -> None:
        """Compare ``blocks`` of the result, which are those of the ranks ``owners``, with what these gave. Raises
        CorruptionDetected."""
        view = self._comm.view
        words = np.concatenate([own.hash, digest(own.data), *map(digest, blocks)])
        try:
            rows = self._gather(words, view, timeout).reshape(view.size, 2 + len(blocks), -1)
        except Abandoned:
            self.skipped += 1
            return
        hashes = [[part.tobytes() for part in row] for row in rows]
        causes = judge_copies(
            [row[0] for row in hashes], [row[1] for row in hashes], [row[2:] for row in hashes], owners
        )
        self._conclude(view, causes, call, seq, "hashes of what was given, and of what has arrived")

    def reduced(self, call: str, seq: int, op: str, own: Contribution, result: Array, timeout: float | None) -> None:
        """Compare the checksums of ``result`` with those of all contributions. Raises CorruptionDetected."""
        view, way = self._comm.view, own.way
        assert way is not None
        try:
            differing = self._again(view, op, own.data, result, timeout) if way is Way.TWICE else None
            rows = self._gather(own.row(result, differing), None, timeout)
        except Abandoned:
            self.skipped += 1
            return
        table = Table(rows, self._comm.view, way, op, result.dtype)
        if self._comm.view.ids != view.ids:
            self.skipped += 1
            self._conclude(table.view, self._known(table, False), call, seq, "hashes, of survivors of a death", BY_HASH)
            return
        doubt = table.suspicion()
        if not doubt.any and not any(table.changed) and len(set(table.copies)) == 1:
            self.passed += 1
            return
        self.audits += 1
        causes, looked = self._audit(table, doubt, own.data, result, seq, timeout)
        wrong = int(doubt.wrong.sum())
        evidence = f"{way.value} checksums: {wrong} of {doubt.wrong.size} blocks are wrong, {looked} were reduced again"
        self._conclude(view, causes, call, seq, evidence)

    # -- what they consist of -------------------------------------------------------------------------------------------

    def _gather(self, words: Array, view: View | None, timeout: float | None) -> Array:
        """A row from each rank, all of the length of ``words``. Raises Abandoned when the members are not those of ``view``;
        for None, the rows are of the members that there are now."""
        try:
            joined = self._comm.all_gather(words, timeout=timeout)
        except PeerLost as error:
            self._owed = error
            raise Abandoned from None
        except CollcommError as error:
            error.add_note("This was a check of the result of a collective, which all members had completed.")
            raise
        if view is not None and self._comm.view.ids != view.ids:
            raise Abandoned
        rows: Array = joined.reshape(self._comm.view.size, words.size)
        return rows

    def _again(self, view: View, op: str, x: Array, result: Array, timeout: float | None) -> Array:
        """By block, how many numbers of ``result`` a second run contradicts. Raises Abandoned."""
        second = second_input(x, op, self._comm.rank == 0)
        try:
            again = self._comm.all_reduce(second, op=second_op(op, x.dtype), timeout=timeout)
        except PeerLost as error:
            self._owed = error
            raise Abandoned from None
        if self._comm.view.ids != view.ids:
            raise Abandoned
        return differences(result, again, op, view.size)

    def _known(self, table: Table, wrong: bool) -> Array:
        """What follows from the table alone."""
        return judge(Evidence(table.op, table.dtype, table.way, table.changed, table.copies, wrong))

    def _audit(
        self, table: Table, doubt: Suspicion, x: Array, result: Array, seq: int, timeout: float | None
    ) -> tuple[Array, int]:
        """By rank, what is wrong there; and how many blocks were looked into."""
        wrong = bool(doubt.wrong.any())
        known = self._known(table, wrong)
        if any(table.changed):
            return known, 0
        try:
            differing = self._differing(table, result, timeout)
            chosen = doubt.choose(MOST_BLOCKS, seq, differing)
            blocks = self._show(table, x, result, chosen, timeout) if chosen else []
            evidence = Evidence(table.op, table.dtype, table.way, table.changed, table.copies, wrong, blocks)
            return elect(self._gather(judge(evidence), table.view, timeout)), len(chosen)
        except Abandoned:
            self.skipped += 1
            return known, 0

    def _differing(self, table: Table, result: Array, timeout: float | None) -> Array:
        """The blocks of which not all have the same copy."""
        if len(set(table.copies)) == 1:
            return np.empty(0, np.int64)
        rows = self._gather(block_digests(result), table.view, timeout)
        return np.flatnonzero((rows != rows[0]).any(axis=0))

    def _show(
        self, table: Table, x: Array, result: Array, chosen: Sequence[int], timeout: float | None
    ) -> list[list[Shown]]:
        """Of each chosen block, what every rank shows of it."""
        places = [elements_of_block(index, result.size, result.dtype) for index in chosen]
        given = self._exchange(table, [x[place] for place in places], timeout)
        results = self._exchange(table, [result[place] for place in places], timeout)
        kernel = request("all_reduce", x.dtype, x.size, op=table.op).ufunc
        own = [reduce_again(kernel, table.op, [row[turn] for row in given]) for turn in range(len(places))]
        redone = self._exchange(table, own, timeout)
        before = table.before if table.way is not Way.TWICE else None
        return [
            [
                Shown(
                    given[rank][turn],
                    results[rank][turn],
                    redone[rank][turn],
                    None if before is None else before[rank, index],
                    table.after[rank, index],
                )
                for rank in range(table.view.size)
            ]
            for turn, index in enumerate(chosen)
        ]

    def _exchange(self, table: Table, parts: Sequence[Array], timeout: float | None) -> list[list[Array]]:
        """By rank, its ``parts``."""
        rows = self._gather(np.concatenate([part.view(np.uint8) for part in parts]), table.view, timeout)
        edges = np.cumsum([part.nbytes for part in parts])[:-1]
        return [[part.copy().view(table.dtype) for part in np.split(row, edges)] for row in rows]

    def _conclude(self, view: View, causes: Array, call: str, seq: int, evidence: str, sureness: float = 1.0) -> None:
        if not causes.any():
            self.passed += 1
            return
        sure = [rank for rank, cause in enumerate(causes) if cause not in (Cause.NONE, Cause.SUSPECT)]
        ranks = sure or [rank for rank, cause in enumerate(causes) if cause]
        blamed = tuple(Blamed(rank, view[rank], Cause(causes[rank])) for rank in ranks)
        confidence = sureness if sure else 1.0 / len(ranks)
        corruption = Corruption(call, self._comm.gid, seq, view.epoch, blamed, bool(sure), confidence, evidence)
        self.found.append(corruption)
        log.error("silent corruption: %s", corruption.text)
        members = [each.member.id for each in blamed]
        self._comm._session.tell_corruption(view.epoch, self._comm.gid, seq, members, confidence, corruption.text)
        if self._tell is not None:
            try:
                self._tell(corruption)
            except Exception:  # the other members go on, so that this one must
                log.exception("the callback for corruption of %s failed", call)
        if self._raises:
            raise CorruptionDetected(f"{corruption.text}; {corruption.advice}", corruption)
