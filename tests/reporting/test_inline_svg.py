"""A drawing in a page: ids of its own, tooltips, short numbers, well-formed whatever it shows."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from grigri_fast.reporting import plots, run_figures


def drawn(figure, label: str = "what it shows") -> ET.Element:
    """Return a drawing as it is parsed, which it is only if it is well-formed."""
    root = ET.fromstring(plots.svg(figure, "name", label))
    assert root.tag == "svg" and root.get("aria-label")
    for element in root.iter():
        for value in element.attrib.values():
            assert "nan" not in value.lower() and "inf" not in value, value
    return root


def history(values: list[float]) -> list[dict[str, float]]:
    return [{"epoch": e, "train_loss": v, "val_loss": 2 * v} for e, v in enumerate(values, start=1)]


def curve(**options):
    settings = {"at": None} | options
    return run_figures.precision_recall([0.5, 1.0], [1.0, 0.5], **settings)


def test_drawings_of_a_page_do_not_share_ids() -> None:
    texts = [plots.svg(curve(at=(0.5, 0.5)), name, "") for name in ("one", "two")]
    for text, name in zip(texts, ("one", "two"), strict=True):
        ids = re.findall(r' id="([^"]+)"', text)
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
        assert ids and set(used) == set(ids) and len(ids) == len(set(ids))
        assert all(i.startswith(f"{name}-") for i in ids)
    assert "<style" not in texts[0] and "metadata" not in texts[0]


def test_a_line_breaks_where_there_is_no_number() -> None:
    values = [1.0, 2.0, math.nan, 3.0, math.inf]
    root = drawn(run_figures.over_epochs(history(values), "loss"))
    tips = [e.text for e in root.iter("title")]
    assert tips == [
        *(f"train, epoch {e}: {v}" for e, v in ((1, "1.0000"), (2, "2.0000"), (4, "3.0000"))),
        *(f"val, epoch {e}: {v}" for e, v in ((1, "2.0000"), (2, "4.0000"), (4, "6.0000"))),
    ]
    lines = [e.get("d") for e in root.iter("path") if "stroke-width: 2" in (e.get("style") or "")]
    assert max(line.count("M") for line in lines) == 2
    assert "val -" in "".join(root.itertext())  # the last one is no number


def test_points_are_where_their_values_say() -> None:
    figure = run_figures.calibration([0.0, 0.5, 1.0], [0.0, 0.5, 1.0])
    dots = [dot for dot in drawn(figure).iter("use") if dot.find("title") is not None]
    assert len(dots) == 3
    x, y = ([float(dot.get(key)) for dot in dots] for key in "xy")
    assert x == sorted(x) and y == sorted(y, reverse=True)
    assert x[1] == pytest.approx((x[0] + x[2]) / 2, abs=0.1)
    assert y[1] == pytest.approx((y[0] + y[2]) / 2, abs=0.1)


@pytest.mark.parametrize(
    "values, ticks",
    [
        ([0.0, 0.0], {"0", "0.5", "1"}),
        ([0.1317, 0.1330], {"0.1315", "0.132", "0.1325", "0.133"}),
        ([3.0, 3.0], {"2.8", "3", "3.2"}),
    ],
)
def test_numbers_at_an_axis_are_round_and_within_the_drawing(values, ticks) -> None:
    rows = [{"epoch": e, "train_loss": v, "val_loss": v} for e, v in enumerate(values, start=1)]
    root = drawn(run_figures.over_epochs(rows, "loss"))
    right_ends = {text.text: float(text.get("x")) for text in root.iter("text")}
    assert ticks <= right_ends.keys()
    for name in ticks:
        assert right_ends[name] > 6 * len(name)


@pytest.mark.parametrize(
    "figure",
    [
        run_figures.over_epochs(history([0.0]), "loss"),
        run_figures.over_epochs(history([5e9, 5e9]), "loss"),
        run_figures.over_epochs(history([1e-12, 2e-12]), "loss"),
        run_figures.over_epochs(history([math.nan, math.nan]), "loss"),
        run_figures.over_epochs(history([0.5] * 100), "loss"),
        run_figures.histogram([0, 1], [0]),
        run_figures.histogram([0, 0.3, 0.6, 1], [0, 1, 10**9]),
        run_figures.calibration([math.nan, 0.5], [math.nan, 1.0]),
        run_figures.calibration([math.nan], [math.nan]),
        run_figures.precision_recall([], [], at=None),
        curve(frequency=0.1, is_small=True),
        run_figures.trade_off([0, 0.5], {"F1": [0, 1], "P": [math.nan, 1]}, {"t": 0.9}, 0.2),
        run_figures.trade_off([0, 0.5], {"F1": [0, 1]}, {f"t{i}": i / 80 for i in range(80)}, None),
    ],
)
def test_drawings_of_odd_data_are_well_formed(figure) -> None:
    drawn(figure)


def test_a_single_label_in_a_bin_is_to_be_seen() -> None:
    root = drawn(run_figures.histogram(np.linspace(0, 1, 4).tolist(), [0, 1, 10_000]))
    heights = []
    for title in root.iter("title"):
        parent = next(e for e in root.iter() if title in list(e))
        ys = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", parent.find("path").get("d"))]
        heights.append(max(ys) - min(ys))
    assert [t.text.split(": ")[1] for t in root.iter("title")] == ["0", "1", "10,000"][
        -len(heights) :
    ]
    assert heights[-2] > 2 and heights[-1] > heights[-2]


def test_names_cannot_get_out_of_a_drawing() -> None:
    name = '</svg><script>alert("x")</script>\x1b'
    figures = [
        curve(at=(0.5, 0.5), tip=name),
        run_figures.trade_off([0, 1], {"<b>": [0, 1]}, {name: 0.5}, 0.5),
        plots.bars([name], {"<b>": [1.0]}, "share"),
    ]
    for figure in figures:
        assert not list(drawn(figure, name).iter("script"))
