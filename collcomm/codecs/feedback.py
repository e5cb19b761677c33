"""Error feedback (arXiv 1809.07599, 1905.05957): what a codec has left out of one call is added to the next."""

from __future__ import annotations

import numpy as np

from .codec import Codec, Floats
from .registry import codec_of


class ErrorFeedback:
    """A codec with a memory, for one array that is reduced again and again: ``comm.all_reduce(x, codec=feedback)``.

    Over many calls nothing is lost: at any time, the sum of all results (of op "sum") is the sum of everything that all peers
    gave, less what the ``residual`` of all peers holds, but for rounding. A call that fails leaves the residual as it was. What
    is not finite is dropped. When a peer dies, its residual goes with it; a newcomer begins with none.

    :param codec: a codec, or the name of one.
    """

    def __init__(self, codec: Codec | str):
        self.codec = codec_of(codec)
        self.residual: Floats | None = None

    def corrected(self, numbers: Floats) -> Floats:
        """A copy of ``numbers`` with the residual added. Raises ValueError when the last array was of another size."""
        if self.residual is None:
            return numbers.copy()
        if self.residual.size != numbers.size:
            raise ValueError(
                f"this ErrorFeedback belongs to an array of {self.residual.size} elements, not {numbers.size}; use one for "
                f"each array, or call reset()"
            )
        return np.add(numbers, self.residual)

    def settle(self, residual: Floats) -> None:
        """What is to be added next time."""
        residual[~np.isfinite(residual)] = 0
        self.residual = residual

    def reset(self) -> None:
        """Forget what was left out."""
        self.residual = None

    def __repr__(self) -> str:
        return f"<error feedback of {self.codec!r}>"
