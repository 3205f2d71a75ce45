"""The page of a run: its numbers are those of eval, it needs nothing but itself, it opens."""

import dataclasses
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pages import Page, brightness, browse, needed_width, probed, seen
from small_set import write_image

from grigri_fast.cli.main import main
from grigri_fast.config import TrainConfig, resolve
from grigri_fast.evaluation import evaluator
from grigri_fast.evaluation.evaluator import RunEvaluation
from grigri_fast.reporting import run_report
from grigri_fast.reporting.photographs import Photo
from grigri_fast.reporting.run_report import Record
from grigri_fast.runs.checkpoint import ModelInfo

NAUGHTY = "<b>&\"'"
CLASSES = ["cat", NAUGHTY, "never"]


# --------------------------------------------------------------- pages of runs of every kind


def scored_of(num_images: int, num_classes: int, threshold: str | float = "auto", rate=0.2):
    """Return an evaluation of random predictions that know something."""
    rng = np.random.default_rng(num_classes)
    targets_NC = rng.random((num_images, num_classes)) < rate
    probabilities_NC = np.clip(0.4 * targets_NC + 0.6 * rng.random(targets_NC.shape), 0, 1)
    names = [f"class {c}" for c in range(num_classes)]
    return RunEvaluation(
        checkpoint=Path("last.safetensors"),
        evaluation=evaluator.score(probabilities_NC, targets_NC, names, threshold),
        info=ModelInfo("resnet18", 32, names, epoch=1),
        images="val part of nothing",
        bad={},
        paths=[Path(f"{row}.jpg") for row in range(num_images)],
        probabilities_NC=probabilities_NC,
        targets_NC=targets_NC,
    )


def page_of(scored: RunEvaluation, history: list[dict[str, float]] | None = None) -> str:
    record = Record(
        "a run", "last.safetensors", resolve(TrainConfig(data="photos")), history or [], {}, {}
    )
    jpeg = Photo(b"\xff\xd8\xff", 96, 96)
    photos = dict.fromkeys(range(len(scored.paths)), jpeg)
    return run_report.to_html(record, scored, run_report.pick_all(scored), photos)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", ["auto", "per-class", 0.5, 0.0, 1.0])
@pytest.mark.parametrize(
    "num_images, num_classes, rate", [(1, 1, 1.0), (2, 1, 0.0), (40, 3, 0.02), (60, 80, 0.1)]
)
def test_few_images_few_positives_one_class_many_classes(
    num_images: int, num_classes: int, rate: float, threshold: str | float
) -> None:
    text = page_of(scored_of(num_images, num_classes, threshold, rate))
    page = Page(text)
    assert "NaN" not in text and ">nan" not in text and " nan" not in text
    assert "still going" in page.text and "No epoch is finished yet" in page.text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for attrs in page.all("a"):
        assert attrs["href"].removeprefix("#") in ids


@pytest.mark.slow
def test_a_huge_number_of_classes_makes_no_huge_page() -> None:
    text = page_of(scored_of(300, 2000, "per-class", rate=0.05))
    assert len(text) < 3_000_000
    assert len(Page(text).all("img")) <= 480
    assert "class 1999" in text  # the table has them all, in a box that scrolls
    assert len(re.findall(r"class \d+: \d\.\d{4}", text)) == 60  # thresholds in the figure


def test_names_and_labels_are_escaped_everywhere() -> None:
    scored = scored_of(30, 3)
    names = [NAUGHTY, "</style><script>x</script>", "{{x}}"]
    evaluation = scored.evaluation
    per_class = [
        dataclasses.replace(c, name=name)
        for c, name in zip(evaluation.per_class, names, strict=True)
    ]
    scored = dataclasses.replace(
        scored,
        evaluation=dataclasses.replace(evaluation, per_class=per_class),
        info=dataclasses.replace(scored.info, class_names=names),
        paths=[Path(f"\"'><img src=x onerror=alert({row})>.jpg") for row in range(30)],
        bad={Path("<script>.jpg"): "<u>why</u>"},
        images=NAUGHTY,
    )
    page = Page(page_of(scored))
    assert not page.all("script") and not page.all("u")
    assert len(page.all("b")) == 4  # those of the four scores
    assert all("onerror" not in attrs for attrs in page.all("img"))
    assert NAUGHTY in page.text and "<u>why</u>" in page.text
    assert len(page.all("style")) == 1


# ---------------------------------------------------------------------------- the real command


def write_data(folder: Path) -> Path:
    """Write a CSV of 48 images; one class has a name to be escaped, one has no images."""
    rows = [",".join(["image", "cat", '"<b>&""\'"', "never"])]
    for row in range(48):
        name = f"<i>{row}.jpg" if row % 5 == 0 else f"{row}.jpg"
        write_image(folder / "images" / name, row)
        rows.append(f"{name},{row % 2},{(row // 2) % 2},{int(row == 0)}")
    file = folder / "labels.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return a run on the images of :func:`write_data`, which lie beside it."""
    folder = tmp_path_factory.mktemp("report")
    data = write_data(folder / "data")
    command = ["train", str(data), "--arch=resnet18", "--weights=none", "--size=32", "--epochs=1"]
    command += ["--batch-size=16", "--threads=1", "--test=0.2", "--out", str(folder / "runs")]
    assert main(command) == 0
    return next((folder / "runs").iterdir())


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.slow
def test_its_figures_are_those_of_eval(cli, run: Path) -> None:
    code, out, _ = cli("eval", run, "--json", "--threads=1", "--part=test")
    assert code == 0
    scored = json.loads(out)
    code, out, err = cli("report", run, "--threads=1", "--part=test")
    assert (code, err) == (0, "") and str(run / "report.html") in out
    text = (run / "report.html").read_text()
    table, classes = (
        html.unescape(re.sub(r"<[^>]+>", " ", part))
        for part in re.findall(r"<tbody>(.*?)</tbody>", text, re.DOTALL)[:2]
    )
    for scores in scored["scores"].values():
        for score in scores.values():
            assert f"{score['value']:.4f}" in table
            assert f"{score['low']:.3f}-{score['high']:.3f}" in table
    lines = [line.split() for line in classes.splitlines()]
    assert len(lines) == len(scored["per_class"]) == 3
    for line, c in zip(lines, scored["per_class"], strict=True):
        keys = ("precision", "recall", "f1", "average_precision", "threshold")
        numbers = ["-" if c[key] is None else f"{c[key]:.4f}" for key in keys]
        assert line == [c["name"], str(c["support"]), *numbers]
    assert f"{scored['num_images']:,}" in text
    assert scored["images"] in html.unescape(text)


@pytest.mark.slow
def test_it_needs_nothing_but_itself_and_is_always_the_same(cli, run: Path, tmp_path) -> None:
    for name in ("a.html", "b.html"):
        code, _, err = cli("report", run, "--threads=1", "--out", tmp_path / name)
        assert (code, err) == (0, "")
    text = (tmp_path / "a.html").read_text()
    assert text == (tmp_path / "b.html").read_text()
    page = Page(text)
    assert not page.all("script") and len(page.all("b")) == 4
    for tag, attrs in page.tags:
        for key, value in attrs.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "srcset", "action", "xlink:href"):
                assert value.startswith(("#", "data:")), (tag, value)
            assert "url(" not in (value or "")
    assert "url(" not in text and "@import" not in text
    assert "http:" not in text and "https:" not in text
    assert page.all("img") and all(attrs["alt"] for attrs in page.all("img"))
    assert NAUGHTY in page.text and any("<i>" in (attrs["alt"] or "") for attrs in page.all("img"))
    for field in dataclasses.fields(TrainConfig):
        assert field.name in page.text
    assert "packages torch" in page.text


def test_a_damaged_image_is_left_out_and_named(cli, run: Path, tmp_path: Path) -> None:
    name = json.loads((run / "split.json").read_text())["parts"]["val"][0]
    data = tmp_path / "data"
    write_data(data)
    config = (run / "config.toml").read_text()
    config = re.sub(r"(?m)^data = .*$", f"data = {json.dumps(str(data / 'labels.csv'))}", config)
    (run / "config.toml").write_text(config)
    (data / "images" / name).write_bytes(b"\xff\xd8\xff nothing")
    code, _, err = cli("report", run, "--threads=1")
    assert code == 1 and err.count("\n") == 1 and "cannot be used" in err
    assert not (run / "report.html").exists()
    assert cli("report", run, "--threads=1", "--max-bad=0.5")[0] == 0
    text = Page((run / "report.html").read_text()).text
    assert "1 image cannot be used and is left out" in text and name in text
    assert "cannot be decoded" in text


def test_a_run_that_is_still_going_and_one_that_has_not_begun(cli, run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "environment.json").unlink()
    assert cli("report", run, "--threads=1")[0] == 0
    assert "it is still going" in (run / "report.html").read_text()
    (run / "last.safetensors").unlink()
    code, _, err = cli("report", run)
    assert code == 1 and err.count("\n") == 1 and "finished its first epoch" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, content, says",
    [
        ("results.csv", "epoch\none\n", "results.csv: not written by grigri-fast"),
        ("results.csv", "epoch\n1\n", "results.csv: not written by grigri-fast"),
        ("summary.json", "{", "summary.json: not valid JSON"),
        ("environment.json", "[]", "environment.json: not written by grigri-fast"),
    ],
)
def test_a_damaged_record_is_one_line(cli, run: Path, name: str, content: str, says: str) -> None:
    (run / name).write_text(content)
    code, _, err = cli("report", run, "--threads=1")
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert not (run / "report.html").exists()


def test_where_it_cannot_be_written_is_said_before_the_work(cli, run: Path, tmp_path) -> None:
    for out, says in ((tmp_path, "is a folder"), (tmp_path / "no" / "a.html", "no folder")):
        code, _, err = cli("report", run, "--out", out)
        assert code == 1 and err.count("\n") == 1 and says in err
    code, _, err = cli("report", tmp_path)
    assert code == 1 and "not a run folder" in err


# ------------------------------------------------------------------------------- in a browser

PHOTOS = """
  const photos = [...document.images], style = getComputedStyle(document.body);
  return {
    photos: photos.length,
    shown: photos.filter(i => i.complete && i.naturalWidth > 0).length,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    ink: style.color, ground: style.backgroundColor,
    line: getComputedStyle(document.querySelector("#training svg path[style*=colour-1]")).stroke,
  };
"""


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_it_opens_in_a_browser_in_light_and_dark(cli, run: Path, tmp_path: Path) -> None:
    page, wrong = tmp_path / "page.html", tmp_path / "wrong.html"
    assert cli("report", run, "--threads=1", "--out", page)[0] == 0
    document, said = browse(page, tmp_path / "profile", "light", 1280)
    assert not said and "</html>" in document
    lines = {}
    for scheme, width in (("light", 1280), ("dark", 390)):
        found = seen(page, PHOTOS, tmp_path / "profile", scheme, width)
        assert found["photos"] == found["shown"] > 0
        assert found["dark"] == (scheme == "dark")
        ink, ground = brightness(found["ink"]), brightness(found["ground"])
        assert (ink - ground if found["dark"] else ground - ink) > 0.7
        assert found["needed"] <= found["width"]
        lines[scheme] = found["line"]
    assert needed_width(page, tmp_path / "profile", 390) == 390
    assert lines["light"] != lines["dark"]  # figures follow the scheme
    wrong.write_text(probed(page.read_text(), "<script>nonsense()</script>"))
    assert browse(wrong, tmp_path / "profile", "light", 1280)[1]  # errors would be seen
