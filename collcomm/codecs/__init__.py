"""Quantisation: arrays of float32 as fewer bits, for links that are slow.

    mean = comm.all_reduce(gradient, op="mean", codec="int8")
    mean = comm.all_reduce(gradient, op="mean", codec=Int8(block=256, stochastic=True, seed=rank))
    mean = comm.all_reduce(gradient, op="mean", codec=feedback)      # feedback = ErrorFeedback(TopK(0.01)), kept between calls

The codecs are pure functions of numbers and bytes; who sends what to whom is told in `collcomm.coded`.
"""

from .codec import Codec, MalformedPayload
from .e3m0 import E3M0
from .feedback import ErrorFeedback
from .fp8 import E4M3, E5M2
from .halves import BF16, F16
from .int8 import Int8
from .registry import UnknownCodec, codec_of, names, register
from .topk import TopK

__all__ = [
    "BF16",
    "E3M0",
    "E4M3",
    "E5M2",
    "F16",
    "Codec",
    "ErrorFeedback",
    "Int8",
    "MalformedPayload",
    "TopK",
    "UnknownCodec",
    "codec_of",
    "names",
    "register",
]
