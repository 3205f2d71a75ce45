"""Figures: files of the right kind, that go into a page in light and dark."""

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
    "bars": functools.partial(plots.bars, ["x", "$y"], {"train": [0.1, 0.2]}, "share"),
    "over threshold": functools.partial(
        plots.over_threshold, [0.0, 0.5, 1.0], {"F1": [0.1, 0.7, 0.0]}, {"ours": 0.4}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_png_is_a_png_and_an_svg_takes_the_pages_ink(kind: str) -> None:
    assert plots.png(KINDS[kind]()).startswith(b"\x89PNG")
    svg = plots.svg(KINDS[kind](), "name", "What it shows")
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    for name in ("ink", "grid", "colour-1", "font"):
        assert f"var(--{name})" in svg
    assert not re.search("#2b2d42|#e3e6ea|#000000|#ffffff|DejaVu|#d1495b|#2f86c1", svg)
    assert svg == plots.svg(KINDS[kind](), "name", "What it shows")


def test_a_name_with_a_dollar_is_no_formula() -> None:
    svg = plots.svg(plots.bars(["$a$", "b\x1b"], {"train": [0.1, 0.2]}, "share"), "x", "")
    assert ">$a$</text>" in svg and "b\\x1b" in svg


def test_a_search_of_every_kind_of_trial_is_drawn() -> None:
    params = {"lr": 0.1, "augment": True}
    trials = [
        {"number": 0, "state": "done", "score": 0.5, "params": params},
        {"number": 1, "state": "pruned", "score": 0.2, "params": params},
        {"number": 2, "state": "failed", "score": None, "params": params},
        {"number": 3, "state": "done", "score": 0.6, "params": {"lr": 0.2, "augment": False}},
    ]
    space = {"lr": {"low": 0.01, "high": 1.0, "log": True}, "augment": {"choices": [True, False]}}
    assert plots.tuning(trials, space, {"lr": 0.9}, "a search").startswith(b"\x89PNG")
    assert plots.tuning(trials[:1], {}, {}, "one trial").startswith(b"\x89PNG")
