"""Figures of several runs: files of the right kind, that go into a page in light and dark."""

import functools
import re

import pytest

from grigri_fast.reporting import plots

HISTORY = [
    {"epoch": e + 1} | {f"{p}_{k}": 0.1 * e for p in ("train", "val") for k in KEYS}
    for KEYS in [("loss", "micro_f1", "subset_accuracy")]
    for e in range(3)
]
KINDS = {
    "comparison": functools.partial(
        plots.comparison, {"a": HISTORY, "b": HISTORY[:1]}, {"a": {"micro_f1": 0.7}}
    ),
    "one epoch of zeros": functools.partial(plots.comparison, {"a": HISTORY[:1]}, {}),
    "against": functools.partial(
        plots.against, [("a", 0.7, (0.6, 0.5, 0.7)), ("b", None, None), ("c", 0.9, None)], "F1"
    ),
    "bars": functools.partial(plots.bars, ["x", "y"], {"train": [0.1, 0.2]}, "share"),
    "over threshold": functools.partial(
        plots.over_threshold, [0.0, 0.5, 1.0], {"F1": [0.1, 0.7, 0.0]}, {"ours": 0.4}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_png_is_a_png_and_an_svg_takes_the_pages_ink(kind: str) -> None:
    assert KINDS[kind](file_format="png").startswith(b"\x89PNG")
    svg = KINDS[kind](file_format="svg").decode()
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    for name in ("ink", "grid", "colour-1", "font"):
        assert f"var(--{name})" in svg
    assert not re.search("#2b2d42|#e3e6ea|#000000|#ffffff|DejaVu|#d1495b|#2f86c1", svg)
    assert svg == KINDS[kind](file_format="svg").decode()
