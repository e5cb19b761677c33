"""A real etcd on this machine."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from collcomm.bench.launch import die_with_parent, free_port

START_SECONDS = 20.0


class Etcd:
    """A context with one etcd server; ``stop`` and ``start`` keep its data."""

    def __init__(self, directory: Path):
        if shutil.which("etcd") is None:
            pytest.skip("etcd is not installed (Debian: etcd-server)")
        self.url = f"http://127.0.0.1:{free_port()}"
        self._peer_url = f"http://127.0.0.1:{free_port()}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["etcd", "--data-dir", str(self._directory / "data"), "--name", "one"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", self._peer_url, "--initial-advertise-peer-urls", self._peer_url]
        command += ["--initial-cluster", f"one={self._peer_url}", "--unsafe-no-fsync"]
        with open(self._directory / "etcd.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                    if b"true" in answer.read():
                        return
            except OSError:
                pass
            assert time.monotonic() < deadline, f"etcd does not start, see {self._directory}/etcd.log"
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Etcd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
