"""The page of a learning curve: its numbers, its figures, and its place in a run's page."""

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from pages import Page, needed_width, seen
from PIL import Image
from scipy.special import expit

from grigri_fast.errors import GrigriError
from grigri_fast.evaluation import curve
from grigri_fast.evaluation.curve import Curve
from grigri_fast.reporting import curve_page
from grigri_fast.runtime import files

NAMES = ["sky", "<b>&\"'", "never"]


@pytest.fixture(scope="module")
def measured() -> Curve:
    rng = np.random.default_rng(0)
    train, val = ((rng.random((n, 3)) < (0.4, 0.1, 0)).astype(np.float32) for n in (2000, 300))

    def fit_and_predict(rows: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(len(rows)).normal(0, 1, val.shape)
        return expit(4 * (val - 0.5) + noise * (2 + (400 / len(rows)) ** 0.5))

    return curve.measure(fit_and_predict, train, val, NAMES, num_subsets=2)


def page_of(measured: Curve) -> str:
    return curve_page.to_html(measured, "Learning curve", "photos", [("Network", "resnet18")])


def test_it_shows_the_numbers_of_the_curve(measured) -> None:
    text = page_of(measured)
    page = Page(text)
    last, twice = measured.points[-1], measured.micro_f1
    for value in (last.micro_f1.value, last.mAP.value, twice.score.value):
        assert f"{value:.3f}" in page.text
    assert f"+{twice.gain.value:.3f}" in page.text and "4,000" in page.text
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text
    assert "never" in page.text and "not known" in page.text
    assert len([tag for tag, attrs in page.tags if attrs.get("class") == "chart"]) == 3
    assert text == page_of(measured)


def test_classes_that_lack_images_come_first(measured) -> None:
    some = measured.per_class[0]
    wants = [dataclasses.replace(some, name=w or "none", wants_images=w) for w in ("", "no", "yes")]
    ordered = curve_page.by_need(dataclasses.replace(measured, per_class=wants))
    assert [c.wants_images for c in ordered] == ["yes", "no", ""]


def test_the_figure_is_a_png_of_a_size_to_read(measured) -> None:
    image = Image.open(io.BytesIO(curve_page.png(measured)))
    assert image.format == "PNG" and image.width > 1500


def test_the_file_gives_the_curve_back(measured, tmp_path: Path) -> None:
    assert curve.read(tmp_path) is None
    files.write_json(tmp_path / curve.FILE, dataclasses.asdict(measured))
    again = curve.read(tmp_path)
    assert again.points == measured.points and again.mAP == measured.mAP
    assert again.per_class[0] == measured.per_class[0]
    assert math.isnan(again.per_class[2].average_precision[0].value)
    assert page_of(again) == page_of(measured)


@pytest.mark.parametrize("change", ["points", "micro_f1", "per_class"])
def test_another_file_is_refused(measured, tmp_path: Path, change: str) -> None:
    content = json.loads(files.to_json(dataclasses.asdict(measured)))
    (tmp_path / curve.FILE).write_text(json.dumps(content | {change: [{"num_images": "x"}]}))
    with pytest.raises(GrigriError, match=r"learning-curve\.json: not written by grigri-fast"):
        curve.read(tmp_path)


@pytest.mark.slow
def test_it_fits_a_phone_in_light_and_dark(browser, measured, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_of(measured))
    for scheme in ("light", "dark"):
        found = seen(page, "return {}", tmp_path / "profile", scheme, 1280)
        assert found["needed"] <= found["width"]
    assert needed_width(page, tmp_path / "profile", 390) <= 390
