"""Buckets that torch's backward pass fills by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .buckets import Buckets, Members


class AutogradBuckets(Buckets):
    """Of the parameters of ``module`` that require gradients, whose ``grad`` is their view of a bucket from now on: call
    ``zero()`` instead of ``optimizer.zero_grad()``. When the backward pass has made one, it is `ready`; after the pass call
    `finish`, and step the optimizer.

    For other options see `Buckets`. torch 2.1 or later. ``close()`` takes the hooks away."""

    def __init__(self, comm: Members, module: Any, **options: Any):
        self._parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
        super().__init__(comm, self._parameters, **options)
        self._synchronous = True
        self._adopt()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._hook(name))
            for name, parameter in self._parameters.items()
        ]

    def finish(self, timeout: float | None = None) -> dict[str, Any]:
        found = super().finish(timeout)
        self._adopt()
        return found

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside add to the gradients, and nothing is reduced; the last pass of a step is to be outside."""
        self._synchronous = False
        try:
            yield
        finally:
            self._synchronous = True

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        super().close()

    def _adopt(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.grad = self[name]

    def _hook(self, name: str) -> Callable[[Any], None]:
        def made(parameter: Any) -> None:
            view = self[name]
            if parameter.grad is None or parameter.grad.data_ptr() != view.data_ptr():
                view.copy_(parameter.grad)  # somebody has set it to None meanwhile
                parameter.grad = view
            if self._synchronous:
                self.ready(name)

        return made
