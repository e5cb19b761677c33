"""The bench of strided messages, on the smallest of its grid."""

from __future__ import annotations

import pytest

from collcomm.bench.stridedsend import bench_strided_send, cells, verdict


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_messages_in_each_way_are_timed(transport: str) -> None:
    rows = bench_strided_send([1 << 14], 1, transport, block=0.002, timeout=60.0)
    assert [row["run"] for row in rows] == [8, 64, 256, 512, 1024, 2048, 4096, 8192]
    assert rows[0]["chosen"] == ["pack", "pack"]
    for row in rows:
        assert all(0 < row[way]["median"] < 1 for way in ("gather", "pack", "model"))
        assert list(cells(row)) == list(cells(rows[0]))
    assert "of 8 cases" in verdict(rows)
