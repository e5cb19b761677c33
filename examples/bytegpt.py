"""A small GPT over bytes, and the text that it learns: the source of Python's standard library.

Every machine with Python has that text, so nothing is downloaded. The model is the usual pre-norm decoder (GPT-2's
arrangement: learned positions, tied embeddings, GELU) with 256 tokens, one for each byte value.
"""

from __future__ import annotations

import hashlib
import math
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BYTES = 256
HELD_OUT_SHARE = 16  # one file in 16 is kept from training
SKIPPED = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib"}
    | {"encodings", "pydoc_data"}  # generated tables and prose, not code
)


@dataclass(frozen=True)
class Shape:
    """Size of a model: ``context`` bytes seen at once, ``width`` channels, ``layers`` blocks of ``heads`` heads."""

    context: int = 128
    width: int = 96
    layers: int = 3
    heads: int = 4


class Block(nn.Module):
    """Causal self-attention, then a two-layer perceptron, each added to the stream."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width)
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.mix = nn.Linear(shape.width, shape.width, bias=False)
        self.perceptron_norm = nn.LayerNorm(shape.width)
        self.expand = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.contract = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        split = (batch, length, 3, self.heads, width // self.heads)
        query, key, value = self.query_key_value(self.attention_norm(x)).view(split).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.contract(functional.gelu(self.expand(self.perceptron_norm(x))))


class ByteGPT(nn.Module):
    """Predicts the next byte at each of ``context`` positions."""

    def __init__(self, shape: Shape, seed: int):
        super().__init__()
        self.shape = shape
        self.token = nn.Embedding(BYTES, shape.width)
        self.position = nn.Parameter(torch.empty(shape.context, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # the norms start at one and zero
            residual = name.endswith(("mix.weight", "contract.weight"))
            deviation = 0.02 / math.sqrt(2 * self.shape.layers) if residual else 0.02
            nn.init.normal_(parameter, std=deviation, generator=random)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.token(inputs) + self.position[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.token.weight)

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats per byte over ``windows`` (batch, context + 1) of byte values."""
        logits = self(windows[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, BYTES), windows[:, 1:].reshape(-1))

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters by name, as numpy arrays over the same memory: what is written there the model uses."""
        return {name: parameter.detach().numpy() for name, parameter in self.named_parameters()}


class Text:
    """Training and held-out bytes of the standard library; whole files go to one side or the other.

    The side and the order come from a hash of each file's path, so that they are the same everywhere for one version
    of Python. ``limit`` bounds the training bytes, an eighth of it the held-out ones.
    """

    def __init__(self, limit: int = 8 << 20):
        root = Path(sysconfig.get_path("stdlib"))
        by_hash = sorted((_path_hash(path, root), path) for path in _sources(root))
        held_out = [path for digest, path in by_hash if digest[-1] % HELD_OUT_SHARE == 0]
        train = [path for digest, path in by_hash if digest[-1] % HELD_OUT_SHARE]
        self.train = _read(train, limit)
        self.held_out = _read(held_out, limit // 8)
        if len(self.train) < 100_000 or len(self.held_out) < 10_000:
            raise RuntimeError(f"the standard library's source is not under {root}: only {len(self.train)} bytes found")

    def shard(self, part: int, parts: int) -> np.ndarray:
        """The ``part``-th of ``parts`` equal pieces of the training bytes."""
        size = len(self.train) // parts
        return self.train[part * size : (part + 1) * size]

    def held_out_windows(self, count: int, context: int) -> np.ndarray:
        """``count`` windows of ``context`` + 1 bytes, evenly spread over the held-out text; always the same ones."""
        starts = np.linspace(0, len(self.held_out) - context - 1, count).astype(np.int64)
        return windows_at(self.held_out, starts, context)


def windows_at(text: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    """Rows of ``context`` + 1 bytes of ``text``, one for each start, as int64 (what an embedding takes)."""
    return text[starts[:, None] + np.arange(context + 1)].astype(np.int64)


def _sources(root: Path) -> Iterator[Path]:
    for directory, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in SKIPPED)
        yield from (Path(directory, name) for name in sorted(files) if name.endswith(".py"))


def _path_hash(path: Path, root: Path) -> bytes:
    return hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()


def _read(paths: list[Path], limit: int) -> np.ndarray:
    pieces: list[bytes] = []
    room = limit
    for path in paths:
        if room <= 0:
            break
        pieces.append(path.read_bytes()[:room] + b"\0")
        room -= len(pieces[-1])
    return np.frombuffer(b"".join(pieces), np.uint8)
