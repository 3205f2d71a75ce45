import pytest

from grigri_fast.errors import GrigriError
from grigri_fast.runtime import units
from grigri_fast.runtime.units import parse_bytes, parse_interval

MIB = 2**20


@pytest.mark.parametrize(
    "text, num_bytes",
    [
        ("4GiB", 4 * 2**30),
        ("4GB", 4 * 10**9),
        ("3500MiB", 3500 * MIB),
        ("3500 mib", 3500 * MIB),
        ("1.5gib", 3 * 2**29),
        (" 2TB ", 2 * 10**12),
        ("1048576", MIB),
        ("2097152B", 2 * MIB),
    ],
)
def test_amounts_of_memory(text: str, num_bytes: int) -> None:
    assert parse_bytes(text, "--memory-limit") == num_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "4 G", "4GiBs", "-4GiB", "4,5GiB", "1e9", "nan", "inf", "four", "4", "4KiB", "0"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(GrigriError, match="--memory-limit"):
        parse_bytes(text, "--memory-limit")


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", (500, None)),
        ("1", (1, None)),
        ("3 steps", (3, None)),
        ("1step", (1, None)),
        ("10min", (None, 600.0)),
        ("0.5 min", (None, 30.0)),
    ],
)
def test_the_interval_between_checkpoints(text: str, interval: tuple) -> None:
    assert parse_interval(text) == interval


def test_bytes_in_words() -> None:
    assert [units.format_bytes(n) for n in (4 * 2**30, 1.5 * 2**30, 312 * MIB)] == [
        "4.00 GiB",
        "1.50 GiB",
        "312 MiB",
    ]


def test_sizes_in_words() -> None:
    sizes = (12, 207_220, 3_069_184_257, 250_000_000)
    words = ["12 bytes", "207 kB", "3.1 GB", "250 MB"]
    assert [units.format_size(size) for size in sizes] == words
