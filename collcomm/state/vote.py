"""Whose content wins: a pure function of what the peers claim, so that all of them come to the same answer.

Who has synced with this group before, at the latest such revision, has a vote; if nobody has (the first sync), those who
claim the highest revision have. A strict majority of the voters decides. So a newcomer, or many of them at once, never
outvote those who trained; a corrupted member is outvoted by the others; a member that skipped ahead alone is overruled; and
the group's revision does not go back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import StateDiverged
from .digest import Claim


@dataclass(frozen=True)
class Election:
    """``holders``: positions of the peers that have the winning content; ``laggards``: all others; ``outvoted``: those of
    them that had a vote."""

    revision: int
    root: bytes
    holders: tuple[int, ...]
    laggards: tuple[int, ...]
    outvoted: tuple[int, ...] = ()


def elect(claims: Sequence[Claim]) -> Election:
    """Raises StateDiverged where no content has the majority, or where the peers' arrays do not match."""
    voters = _voters(claims)
    ballots = Counter((claim.revision, claim.root, claim.schema) for claim in voters)
    (revision, root, schema), votes = ballots.most_common(1)[0]
    if 2 * votes <= len(voters):
        held = "; ".join(f"{c.name} has revision {c.revision} ({c.root.hex()[:8]})" for c in voters)
        raise StateDiverged(
            f"no majority holds the same state: {held}; restore one of them everywhere, or let the wrong one leave"
        )
    strangers = [claim.name for claim in claims if claim.schema != schema]
    if strangers:
        raise StateDiverged(
            f"the arrays of {', '.join(strangers)} differ from the majority's in names, shapes or dtypes"
        )
    latest = max(claim.lineage for claim in claims)
    if revision < latest:
        raise StateDiverged(f"the group has synced revision {latest}; it cannot go back to {revision}")
    holders = tuple(i for i, claim in enumerate(claims) if (claim.revision, claim.root) == (revision, root))
    laggards = tuple(i for i in range(len(claims)) if i not in holders)
    entitled = {claim.name for claim in voters}
    outvoted = tuple(i for i in laggards if claims[i].name in entitled)
    return Election(revision, root, holders, laggards, outvoted)


def _voters(claims: Sequence[Claim]) -> list[Claim]:
    latest = max(claim.lineage for claim in claims)
    if latest >= 0:
        return [claim for claim in claims if claim.lineage == latest]
    highest = max(claim.revision for claim in claims)
    if highest < 0:
        raise StateDiverged(
            "nobody has any state to begin with: all peers gave revision=None, or those who had it are gone; "
            "restore it at one of them and sync again"
        )
    return [claim for claim in claims if claim.revision == highest]
