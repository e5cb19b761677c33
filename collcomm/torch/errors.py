"""collcomm's errors as users of torch.distributed expect them: each is also a `DistBackendError`, a RuntimeError."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from ..errors import CollcommError

_twins: dict[type[CollcommError], Any] = {}


def as_torch(error: BaseException) -> BaseException:
    """``error``, if it is one of collcomm's, as the same error that is one of torch's, too."""
    if not isinstance(error, CollcommError) or isinstance(error, dist.DistBackendError):
        return error
    kind = type(error)
    if kind not in _twins:
        namespace = {"__doc__": kind.__doc__, "__module__": __name__}
        _twins[kind] = type(kind.__name__, (kind, dist.DistBackendError), namespace)
    text = (
        f"the timeout is over: {error}" if isinstance(error, TimeoutError) else str(error)
    )  # what torch's users look for
    twin: BaseException = _twins[kind](text)
    twin.__cause__ = error
    return twin
