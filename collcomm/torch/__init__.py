"""collcomm as a backend of torch.distributed: ``import collcomm.torch``, then ``init_process_group("collcomm")``.

Unmodified clients of torch.distributed run on it. Groups that go on when ranks die and join: `elastic`.
"""

from __future__ import annotations

from .backend import NAME, register
from .elasticrun import Elastic, elastic
from .processgroup import ProcessGroup
from .sampler import ViewSampler

register()

__all__ = ["NAME", "Elastic", "ProcessGroup", "ViewSampler", "elastic"]
