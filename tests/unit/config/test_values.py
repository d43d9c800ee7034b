"""Durations, sizes, shares, rates, flags and networks, one by one."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenproxy.config.values import (
    parse_duration,
    parse_flag,
    parse_network,
    parse_percentage,
    parse_rate,
    parse_size,
    parse_text,
)


@pytest.mark.parametrize(
    ("parse", "value", "expected"),
    [
        (parse_duration, "200ms", 0.2),
        (parse_duration, "5s", 5.0),
        (parse_duration, "1.5s", 1.5),
        (parse_duration, "1m", 60.0),
        (parse_duration, "1h", 3600.0),
        (parse_duration, "2d", 172800.0),
        (parse_duration, "0s", 0.0),
        (parse_duration, 0, 0.0),
        (parse_size, "64KB", 65536),
        (parse_size, "64kb", 65536),
        (parse_size, "10MB", 10 * 1024**2),
        (parse_size, "1GB", 1024**3),
        (parse_size, "1.5KB", 1536),
        (parse_size, "17", 17),
        (parse_size, "17B", 17),
        (parse_size, 0, 0),
        (parse_size, 4096, 4096),
        (parse_percentage, "20%", 0.2),
        (parse_percentage, "0%", 0.0),
        (parse_percentage, "100%", 1.0),
        (parse_rate, "10/s", 10.0),
        (parse_rate, "90/m", 1.5),
        (parse_rate, "3600/h", 1.0),
        (parse_flag, True, True),
        (parse_flag, "on", True),
        (parse_flag, "No", False),
        (parse_network, "10.0.0.0/8", ipaddress.ip_network("10.0.0.0/8")),
        (parse_network, "10.0.0.1", ipaddress.ip_network("10.0.0.1/32")),
        (parse_network, "fd00::/8", ipaddress.ip_network("fd00::/8")),
        (parse_text, 8000, "8000"),
        (parse_text, "a", "a"),
    ],
)
def test_value_is_read(parse: Callable[[object], Any], value: object, expected: object) -> None:
    assert parse(value) == pytest.approx(expected) if isinstance(expected, float) else parse(value) == expected


@pytest.mark.parametrize(
    ("parse", "values"),
    [
        (
            parse_duration,
            ["", "5", "s", "5 s", "-5s", "5S", "1:30", "5s\n", "367d", "1e3s", 5, 5.0, True, None, [], "٥s"],
        ),
        (parse_size, ["", "KB", "-1", "1 KB", "1KiB", "1XB", -1, 1.5, True, None, {}, "9" * 15 + "TB"]),
        (parse_percentage, ["20", "-1%", "101%", "%", 0.2, 20, None]),
        (parse_rate, ["10", "10/", "0/s", "10/y", "/s", "-1/s", 10, None]),
        (parse_flag, ["maybe", "", 1, 0, None, []]),
        (parse_network, ["", "10.0.0.0/33", "10.0.0.1/8", "host", 10, None, "10.0.0.0/8 "]),
        (parse_text, [True, 1.5, None, []]),
    ],
)
def test_value_is_refused(parse: Callable[[object], Any], values: list[object]) -> None:
    for value in values:
        with pytest.raises(ValueError):
            parse(value)


def test_network_with_bits_beyond_its_prefix_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"did you mean '10\.0\.0\.0/8'"):
        parse_network("10.1.2.3/8")


@given(st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.none(), st.lists(st.text())))
def test_parsers_raise_nothing_but_value_error(value: object) -> None:
    for parse in (parse_duration, parse_size, parse_percentage, parse_rate, parse_flag, parse_network, parse_text):
        try:
            parse(value)
        except ValueError:
            pass
