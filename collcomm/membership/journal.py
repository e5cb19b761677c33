"""Records in a directory, one file per group: for one coordinator that its supervisor restarts on the same disk."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

import xxhash

from ..errors import CollcommError

log = logging.getLogger("collcomm.coordinator")
MAX_BYTES = 8 << 20
DIGEST_BYTES = 16


class Journal:
    """A file is replaced as a whole or not at all, and begins with a hash of the rest.

    :raises CollcommError: the directory cannot be used, or another coordinator uses it.
    """

    leader = ""

    def __init__(self, directory: str | os.PathLike[str]):
        self._directory = Path(directory)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CollcommError(f"the journal {self._directory} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise CollcommError(
                f"the journal {self._directory} belongs to a running coordinator (process {owner}); give each its own"
            ) from None
        with contextlib.suppress(OSError):  # only to tell others who we are
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def leads(self) -> bool:
        return True

    def load(self, group: str) -> bytes | None:
        path = self._path(group)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        record = data[DIGEST_BYTES:]
        if len(data) <= MAX_BYTES and xxhash.xxh3_128_digest(record) == data[:DIGEST_BYTES]:
            return record
        log.error("%s is not a record, or a damaged one: it is put aside and not used", path)
        os.replace(path, path.with_suffix(".damaged"))
        return None

    def save(self, group: str, record: bytes | None) -> None:
        path = self._path(group)
        if record is None:
            path.unlink(missing_ok=True)
        else:
            self._replace(path, xxhash.xxh3_128_digest(record) + record)
        self._sync_directory()

    def _replace(self, path: Path, data: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".new-")  # mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise CollcommError(f"{path} cannot be written: {error.strerror}; make room or mend the disk") from None

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, group: str) -> Path:
        """A name that any file system takes, whatever the group is called."""
        name = quote(group, safe="").replace(".", "%2E")
        if len(name) > 200:
            name = f"{name[:100]}-{xxhash.xxh3_128_hexdigest(group.encode())}"
        return self._directory / f"{name}.record"

    def close(self) -> None:
        os.close(self._lock)
