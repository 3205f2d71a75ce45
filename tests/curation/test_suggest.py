"""suggest through the real command: which photographs, why, and what is left out."""

import csv
import shutil
from pathlib import Path

import pytest
from pages import Page, needed_width, seen
from small_runs import SMALL, fit
from small_set import write_image

import grigri_fast
from grigri_fast.errors import GrigriError
from grigri_fast.runs import manifest


@pytest.fixture(scope="module")
def run(photos_once: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        return grigri_fast.train(
            photos_once,
            out=out,
            arch="shufflenet_v2_x0_5",
            weights="none",
            recipe="report",
            size=32,
            epochs=1,
            batch_size=8,
            amp="fp32",
            threads=1,
        ).folder


@pytest.fixture(scope="module")
def pool(photos_once: Path, tmp_path_factory) -> Path:
    """Return a folder with 12 new photographs, one of them twice, an old one, and a bad file."""
    folder = tmp_path_factory.mktemp("pool") / "new"
    for row in range(60, 72):
        write_image(folder / f"new{row}.jpg", row, size=(40 + row % 5, 32))
    shutil.copy(folder / "new60.jpg", folder / "sub.jpg")
    shutil.copy(photos_once / "images" / "im3.jpg", folder / "old.jpg")
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_it_suggests_and_says_what_it_leaves_out(cli, run, pool, tmp_path) -> None:
    out = tmp_path / "out"
    code, printed, err = cli("suggest", run, pool, "--number", 4, "--out", out, "--threads=1")
    assert (code, err) == (0, "")
    assert "4 of 15 photographs to label" in printed
    assert "left out: 1 that the run's data has already" in printed
    assert "left out: 1 that cannot be used" in printed and "bad.jpg: not a JPEG" in printed
    with (out / "suggestions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and len({row["image"] for row in rows}) == 4
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True) and scores[-1] > 0
    names = {Path(row["image"]).name for row in rows}
    assert names <= {f"new{row}.jpg" for row in range(60, 72)} | {"sub.jpg"}
    assert not {"new60.jpg", "sub.jpg"} <= names
    predicted = {p.path.name: p for p in grigri_fast.predict(run, pool, threads=1)}
    for row in rows:
        said = predicted[Path(row["image"]).name]
        assert row["labels"].split("|") == (said.labels or [""])
        assert float(row["p(cat)"]) == pytest.approx(said.probabilities["cat"], abs=1e-5)
        assert row["why"].startswith(("in doubt: ", "unlike"))
    page = Page((out / "suggestions.html").read_text())
    assert len(page.all("img")) == 4 and "Photographs to label" in page.text
    again = grigri_fast.suggest(run, [pool], number=4, out=out, threads=1)
    assert [str(s.path) for s in again.suggestions] == [row["image"] for row in rows]


def test_all_of_them_near_duplicates_aside(run, pool, tmp_path) -> None:
    found = grigri_fast.suggest(run, pool, number=1000, out=tmp_path / "out", threads=1)
    assert [path.name for path in found.known] == ["old.jpg"]
    assert [path.name for path in found.bad] == ["bad.jpg"]
    assert len(found.suggestions) + len(found.alike) == 13
    suggested = {s.path for s in found.suggestions}
    assert set(found.alike.values()) <= suggested and not suggested & set(found.alike)
    assert {path.name for path in found.alike} & {"new60.jpg", "sub.jpg"}  # one is a copy
    assert len(manifest.checksums(run / "data.json")) == 48


def test_what_does_not_go_is_said_in_a_line(cli, run, photos_once, pool, tmp_path) -> None:
    def error(*words: object) -> str:
        code, out, err = cli("suggest", *words)
        assert (code, out) == (1, "") and err.count("\n") == 1
        return err

    out = tmp_path / "out"
    assert "has all 48 images already" in error(run, photos_once, "--out", out)
    assert "no image can be used" in error(run, pool / "bad.jpg", "--out", out)
    assert "no such file or folder" in error(run, tmp_path / "nothing")
    assert "no such run folder" in error(tmp_path / "nothing", pool)
    assert "holds something else" in error(run, pool, "--out", pool)
    with pytest.raises(GrigriError, match="--number must be at least 1, not 0"):
        grigri_fast.suggest(run, pool, number=0)


@pytest.mark.slow
def test_its_page_fits_a_phone_in_light_and_dark(browser, run, pool, tmp_path) -> None:
    grigri_fast.suggest(run, pool, number=12, out=tmp_path / "out", threads=1)
    page = tmp_path / "out" / "suggestions.html"
    for scheme in ("light", "dark"):
        found = seen(page, "return {}", tmp_path / "profile", scheme, 1280)
        assert found["needed"] <= found["width"]
    assert needed_width(page, tmp_path / "profile", 390) <= 390


@pytest.mark.slow
def test_it_works_with_a_network_of_ours(cli, photos_once, pool, tmp_path) -> None:
    """Whose head takes in a picture, not a vector."""
    small = [o for o in SMALL if not o.startswith("--arch")]
    run = fit(cli, photos_once, tmp_path, "--arch=grigri", *small, "--threads=1")
    found = grigri_fast.suggest(run, pool, number=3, out=tmp_path / "out", threads=1)
    assert len(found.suggestions) == 3
