"""all_reduce with a codec over links of a known rate: fewer bytes are less time."""

from __future__ import annotations

import pytest

from collcomm.bench.codecs import bench_coded

RATE = 12.5e6  # bytes per second: slow enough for busy cores to keep up


@pytest.mark.slow
def test_fewer_bytes_take_less_time_on_a_slow_link() -> None:
    int8, e3m0 = bench_coded(4, [8 << 20], ["int8", "e3m0"], RATE, rounds=2)
    assert int8["sent plain"] / int8["sent"] > 3.85
    assert e3m0["sent plain"] / e3m0["sent"] > 7.2
    assert int8["speed-up"] > 1.2, f"{int8['speed-up']:.2f} times as fast with a quarter of the bytes"
    assert e3m0["speed-up"] > 1.2, f"{e3m0['speed-up']:.2f} times as fast with an eighth of the bytes"
