"""Addresses: what is one, what is none, and that no text raises anything else."""

from __future__ import annotations

import pytest
from collcomm.transports import format_address, parse_address
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "found"),
    [("host:48148", ("host", 48148)), ("1.2.3.4:0", ("1.2.3.4", 0)), ("[::1]:65535", ("::1", 65535))],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert parse_address(text) == found
    assert parse_address(format_address(*found)) == found


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":1", "::1:5", "host:65536", "host:-1", "host:1x", "a:\u00b2"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the texts differ
        parse_address(text)


@given(st.text() | st.text("0123456789:[]. ", max_size=30) | st.integers() | st.binary())
def test_no_value_raises_anything_but_value_error(text: object) -> None:
    try:
        host, port = parse_address(text)  # type: ignore[arg-type]
    except ValueError:
        return
    assert host and 0 <= port <= 65535
