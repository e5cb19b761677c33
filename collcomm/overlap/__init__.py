"""Communication that hides behind computation.

buckets     gradients packed into buckets, each reduced as soon as it is full; autograd: as torch's backward pass makes them
priorities  reductions of which the most urgent goes first, also in the midst of a large one
triggered   an all_reduce whose producer marks chunks as ready, each of which goes as soon as its turn has come
fused       an all_reduce with an elementwise function in its middle, computed where the shards are
weave       two halves of a batch, one of which computes while the other communicates
ring        blocks that go round a ring of ranks, and results that return to their owner
prefix      states of all ranks gathered once, and combined over those before, or after, this one
"""

from .autograd import AutogradBuckets
from .buckets import Buckets
from .prefix import combine_before, combine_others
from .priorities import PriorityHandle, PriorityScheduler
from .ring import RingExchange
from .triggered import TriggeredAllReduce
from .weave import weave

__all__ = [
    "AutogradBuckets",
    "Buckets",
    "PriorityHandle",
    "PriorityScheduler",
    "RingExchange",
    "TriggeredAllReduce",
    "combine_before",
    "combine_others",
    "weave",
]
