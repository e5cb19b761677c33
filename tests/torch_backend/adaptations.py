"""PyTorch's own ``DistributedTest``, with one more backend admitted by name.

Import it with BACKEND, WORLD_SIZE and INIT_METHOD=file://... in the environment, as torch's own launcher does. What is
adapted is adapted for every backend alike, Gloo included.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import signal
import sys
import threading
import time
import types
import unittest
import weakref
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.testing._internal import common_distributed

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PLUGINS = {"collcomm": "collcomm.torch"}  # which module brings a backend that torch itself does not have
OUTPUT_VARIABLE = "SUITE_OUTPUT"  # names the file that a test's ranks write their output to
FORKS_VARIABLE = "SUITE_FORKS"  # set where ranks are forked from a process that has imported torch already
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)


class AdmittedName(str):
    """A backend's name that is "gloo" as well wherever a test compares it, and itself wherever torch is handed it."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(other) in (str(self), "gloo")

    def __ne__(self, other: object) -> bool:
        return not self == other


def _decided_early(gate: Decorator) -> Decorator:
    """The same gate with the same answer, asked when the test is defined and not by each of its ranks: no process starts for a
    test that skips itself."""
    reasons = {skip.exit_code: skip.message for skip in common_distributed.TEST_SKIPS.values()}

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        try:
            gate(lambda self: None)(object())
        except SystemExit as leaving:
            return unittest.skip(reasons[int(leaving.code or 0)])(test)
        return gate(test)

    return decorate


def _adapt_gates() -> None:
    """Before the tests are defined."""
    # torch wants 8 ranks for everything on sub-groups, "just a temporary solution" to keep its CI green (see there); most of
    # these tests run with 2 or 3
    common_distributed.skip_if_small_worldsize = lambda test: test
    at_least = common_distributed.skip_if_lt_x_gpu
    common_distributed.skip_if_lt_x_gpu = lambda count, **options: _decided_early(at_least(count, **options))
    common_distributed.skip_if_no_gpu = _decided_early(common_distributed.skip_if_no_gpu)
    common_distributed.skip_if_odd_worldsize = _decided_early(common_distributed.skip_if_odd_worldsize)
    common_distributed.TIMEOUT_OVERRIDE.clear()  # two tests may take 400 s and more, which is for a slow machine with GPUs


def _import_suite(backend: str) -> Any:
    """Gates by name are evaluated while the module is imported, from the environment: there the name is gloo's."""
    os.environ["BACKEND"] = "gloo"
    try:
        suite = importlib.import_module("torch.testing._internal.distributed.distributed_test")
    finally:
        os.environ["BACKEND"] = backend
    # At run time the name goes to init_process_group() and into expectations of get_backend(), so it is the real one; but
    # _test_accumulate_gradients_no_sync() asks whether it is gloo, and would test nothing if it were not.
    suite.BACKEND = AdmittedName(backend)
    for admitted in (suite.PROFILING_SUPPORTED_BACKENDS, suite.SEND_RECV_PROFILING_SUPPORTED_BACKENDS):
        if backend not in admitted:
            admitted.append(backend)  # Gloo's calls are looked for in the profile: ours must be there too
    base = suite.DistributedTest._DistTestBase
    for name in dir(base):
        test = getattr(base, name)
        if getattr(test, "__unittest_skip_why__", "").startswith("Only MPI supports"):
            test.__unittest_skip__ = False  # all_to_all on CPU, from before Gloo had it: it is tested nowhere else
    return suite


def _sleep(seconds: float) -> None:
    """Ranks meet in ``Barrier.sync()`` twice a test, and are waited for, by polling: only those polls last 0.1 s."""
    time.sleep(0.01 if seconds == 0.1 else seconds)


def _run_end_of_interpreter() -> None:
    """What a spawned rank does when it ends, and multiprocessing leaves out in a forked one: functions of atexit."""
    threading._shutdown()
    atexit._run_exitfuncs()


def adopt_orphans() -> None:
    """Processes that a dead rank leaves behind become this process's children, and so can be found and ended."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


_backend = os.environ["BACKEND"]
_adapt_gates()
_suite = _import_suite(_backend)
if _backend in PLUGINS:
    importlib.import_module(PLUGINS[_backend])
assert _backend in dist.Backend.backend_list, f"torch knows no backend {_backend!r}"


_suite.time = common_distributed.time = types.SimpleNamespace(**{**vars(time), "sleep": _sleep})


class AdaptedTest(_suite.TestDistBackend, _suite.DistributedTest._DistTestBase):
    """As torch's test_distributed_spawn.py puts it together."""

    def setUp(self) -> None:
        super().setUp()
        resource_tracker.ensure_running()  # spawning starts one, for good
        self._before = psutil.Process().children(recursive=True)
        self._spawn_processes()

    def _spawn_processes(self) -> None:
        method = "fork" if FORKS_VARIABLE in os.environ else "spawn"
        self._start_processes(torch.multiprocessing.get_context(method).Process)

    @classmethod
    def _run(cls, rank: int, test_name: str, file_name: str, parent_pipe: Any, **options: Any) -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for finalizer in list(weakref.finalize._registry):
            finalizer.atexit = False  # temporary directories and the like belong to the process that made them
        output = os.open(os.environ[OUTPUT_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(output, sys.__stdout__.fileno())
        os.dup2(output, sys.__stderr__.fileno())
        _suite.INIT_METHOD = os.environ["INIT_METHOD"]  # as a spawned rank finds it on import: a file of this very test
        try:
            super()._run(rank, test_name, file_name, parent_pipe, **options)
        finally:
            if FORKS_VARIABLE in os.environ:
                _run_end_of_interpreter()

    def tearDown(self) -> None:
        """Nothing outlives its test: torch only asks ranks to end, and knows nothing of what they have started."""
        left = set(psutil.Process().children(recursive=True)).difference(self._before)
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        for rank in self.processes:
            rank.join()
        psutil.wait_procs(left)
        super().tearDown()
