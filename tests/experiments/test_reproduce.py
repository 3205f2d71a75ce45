"""The report's experiments, run on the small set: what is run, what is shown, what is refused."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import brightness, browse, needed_width, seen

from grigri_fast.cli import progress
from grigri_fast.cli.main import main
from grigri_fast.config import TrainConfig, read_toml, resolve
from grigri_fast.data import dataset, split
from grigri_fast.errors import GrigriError
from grigri_fast.evaluation import metrics
from grigri_fast.experiments import (
    conclusions,
    report_2020,
    reproduce,
    reproduce_report,
    reproduction,
    row_predictions,
)
from grigri_fast.experiments.reproduction import Reproduction, RowResult
from grigri_fast.models import factory
from grigri_fast.runs import run_folder
from grigri_fast.runtime import files
from grigri_fast.training import trainer

OPTIONS = ["--weights=none", "--epochs=1", "--size-scale=0.25", "--threads=1", "--device=cpu"]
NO_RUN = {"data", "untrained", "threshold", "thresholds_per_class"}
ROWS = report_2020.ROWS
TRAINED = [name for name in report_2020.NAMES if name not in NO_RUN]


def of_small_networks() -> tuple[report_2020.Row, ...]:
    """Return the rows with networks that train in a moment."""
    small = {"arch": "shufflenet_v2_x0_5"}
    return tuple(
        dataclasses.replace(row, options=row.options | small)
        if row.options and row.options["arch"] != "simple"
        else row
        for row in report_2020.ROWS
    )


@pytest.fixture(autouse=True)
def small_networks(monkeypatch) -> None:
    monkeypatch.setattr(report_2020, "ROWS", of_small_networks())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photos_once: Path) -> tuple[Path, Path]:
    """Return (data, out) of a study of all rows."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_2020, "ROWS", of_small_networks())
        assert main(["reproduce", str(photos_once), *OPTIONS, "--out", str(out)]) == 0
    return photos_once, out


@pytest.fixture
def copied(finished, tmp_path: Path) -> tuple[Path, Path]:
    """Return (data, out): the study with the row bce alone, for a test to change."""
    data, out = finished
    (tmp_path / "out").mkdir()
    shutil.copytree(out / "bce", tmp_path / "out" / "bce")
    shutil.copy(out / run_folder.SPLIT, tmp_path / "out")
    return data, tmp_path / "out"


def reports(out: Path) -> tuple[str, str]:
    return (out / reproduce_report.MARKDOWN).read_text(), (out / reproduce_report.HTML).read_text()


def summary(out: Path, name: str) -> dict:
    return json.loads((out / name / run_folder.SUMMARY).read_text())


# ------------------------------------------------------------------------- what the rows are


def test_the_reports_figures_are_complete() -> None:
    reported = {row.name: row.reported for row in report_2020.ROWS if row.reported}
    assert {name: tuple(scores.values()) for name, scores in reported.items()} == {
        "data": (0.0, 0.4912),
        "bce": (0.7170, 0.6402),
        "mse": (0.6594, 0.5880),
        "augmentation": (0.6668, 0.6218),
        "resnet34": (0.7709, 0.6913),
        "wide_resnet50_2": (0.7535, 0.6780),
        "untrained": (0.1256, 0.0),
        "frozen": (0.6315, 0.5920),
        "threshold": (0.7870, 0.7015),
        "thresholds_per_class": (0.7834, 0.7120),
        "simple": (0.0, 0.4926),
    }
    assert all(list(s) == ["micro_f1", "subset_accuracy"] for s in reported.values())
    assert len(report_2020.FREQUENCIES["train"]) == len(report_2020.FREQUENCIES["val"]) == 14
    assert (
        reproduce_report.num_simple_parameters() == report_2020.NUM_SIMPLE_PARAMETERS == 11_098_110
    )


def test_the_help_names_every_row(cli) -> None:
    code, out, _ = cli("reproduce", "--help")
    words = set(re.findall(r"\w+", out))
    assert code == 0 and set(report_2020.NAMES) <= words


@pytest.mark.parametrize("name", [*TRAINED, "untrained"])
def test_every_option_that_makes_a_row_is_said(name: str, tmp_path: Path) -> None:
    row = report_2020.row_named(name)
    said = {"arch", "size", "batch_size", "freeze_backbone", "loss", "optimizer", "schedule", "lr"}
    said |= {"momentum", "momentum_min", "weight_decay", "augment", "probe"}
    assert said <= set(row.options)
    config = Reproduction(data="x", out=tmp_path, weights="none").config(row)
    resolved = resolve(config)
    for option in said:  # nothing is left for a rule to fill in
        assert getattr(config, option) == getattr(resolved, option)
    assert (config.epochs, config.size) == (20, row.options["size"])


# What a row runs with where it does not say so itself.
UNSAID = {
    **{"init": "default", "train_norms": False, "flip_test": False, "head_lr_factor": 1.0},
    **{"decay_all": True, "ema": 0.0, "sampler": "shuffle", "micro_batch_size": None},
    **{"color": 0.0, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0},
}


@pytest.mark.parametrize("name", [*TRAINED, "untrained"])
def test_a_new_default_does_not_change_a_row(name: str, tmp_path: Path) -> None:
    row = report_2020.row_named(name)
    resolved = resolve(Reproduction(data="x", out=tmp_path).config(row))
    assert {option: getattr(resolved, option) for option in UNSAID} == UNSAID
    assert resolved.start_size == resolved.test_size == row.options["size"]
    is_augmented, is_onecycle = resolved.augment, resolved.schedule == "onecycle"
    augmentation = (resolved.least_area, resolved.rotation)
    assert augmentation == ((0.08, 25.0) if is_augmented else (None, None))
    assert resolved.warm_up == (0.3 if is_onecycle else None)
    assert not (resolved.probe or resolved.freeze_stages or resolved.freeze_norms)
    assert resolved.layer_decay == 1.0


def test_one_network_takes_the_place_of_the_pretrained_ones(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report_2020, "ROWS", ROWS)
    network = "timm/tf_efficientnet_lite0"
    of = Reproduction(data="x", out=tmp_path, network=network)
    assert [row.name for row in of.rows] == report_2020.NAMES
    for row, reports in zip(of.rows, ROWS, strict=True):
        assert row.reported == reports.reported and row.kind == reports.kind
        same = {k: v for k, v in reports.options.items() if k != "arch"}
        assert {k: v for k, v in row.options.items() if k != "arch"} == same
        if row.options:
            is_simple = row.name == "simple"
            assert row.options["arch"] == ("simple" if is_simple else network)
            assert of.config(row).size == reports.options["size"]
            assert of.config(row).weights == ("none" if is_simple else "imagenet")
        assert "ResNet" not in row.title
    titles = {row.name: row.title for row in of.rows}
    assert titles["bce"] == f"{network}, BCE, SGD"
    assert titles["threshold"] == f"{network}, one threshold tuned"
    # Of the rows that differ in the network alone there is one: it is another size now.
    assert "at 128 px (the report: a wider network)" in titles["wide_resnet50_2"]
    options = [row.options for row in of.rows if row.kind == "train"]
    assert all(options.count(one) == 1 for one in options)


def test_a_networks_own_weight_file_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    with pytest.raises(GrigriError, match="no such file"):
        Reproduction(data="x", out=tmp_path, network="resnet18", weights=str(file))
    file.touch()
    of = Reproduction(data="x", out=tmp_path, network="resnet18", weights=str(file))
    assert of.weights_of(of.rows[1]) == str(file)
    with pytest.raises(GrigriError, match="no such folder"):
        Reproduction(data="x", out=tmp_path, weights=str(file))


# ------------------------------------------------------------------------ running all of them


@pytest.mark.slow
def test_a_study_with_a_network_of_timm(cli, photos_once, tmp_path: Path) -> None:
    command = ["reproduce", photos_once, *OPTIONS, "--out", tmp_path, "--only=bce,untrained"]
    code, printed, err = cli(*command, "--network=timm/lcnet_035")
    assert (code, err) == (0, "")
    assert "timm/lcnet_035, BCE, SGD" in printed
    for name in ("bce", "untrained"):
        assert read_toml(tmp_path / name / run_folder.CONFIG)["arch"] == "timm/lcnet_035"
    for page in reports(tmp_path):
        opening = page[: page.index("A report of 2020 fine-tuned")]
        assert "timm/lcnet_035" in opening and "--network" in opening
        assert page.count("It needs") == 5 and page.count("not run yet") >= 5
    code, _, err = cli(*command)
    assert code == 1 and "--network was timm/lcnet_035" in err and "another --out" in err


@pytest.mark.slow
def test_predictions_are_kept_and_are_those_of_the_model(cli, copied, finished) -> None:
    data, out = copied
    stored = row_predictions.read(out / "bce")
    assert set(stored) == {"val", "train"}
    val, train = stored["val"], stored["train"]
    parts = split.read(out / run_folder.SPLIT, dataset.load(data)).parts
    assert set(val.rows_N) == set(parts["val"]) and set(train.rows_N) <= set(parts["train"])
    assert len(train.rows_N) == len(val.rows_N)
    counts = metrics.count(val.probabilities_NC >= 0.5, val.targets_NC)
    score = summary(out, "bce")["validation"]["scores"]["at 0.5"]["micro_f1"]["value"]
    assert float(metrics.micro_f1(counts)) == pytest.approx(score)
    # Of another model they are nobody's: they are computed again, as where there are none.
    shutil.copy(finished[1] / "adam" / run_folder.LAST, out / "bce" / run_folder.LAST)
    assert row_predictions.read(out / "bce") == {}
    assert cli("reproduce", data, *OPTIONS, "--out", out, "--only", "bce")[0] == 0
    again = row_predictions.read(out / "bce")["val"]
    assert np.array_equal(again.rows_N, val.rows_N)
    assert not np.array_equal(again.probabilities_NC, val.probabilities_NC)


@pytest.mark.slow
def test_the_pages_judge_the_reports_conclusions(finished) -> None:
    data, out = finished
    of = Reproduction(data=str(data), out=out, weights="none", epochs=1, size_scale=0.25, threads=1)
    found = conclusions.conclude({r.row.name: r for r in of.results()}, of.weights)
    assert [c.difference is None for c in found] == [False, False, False, True, False]
    for text in reports(out):
        for c in found:
            assert c.claim in text and str(c.verdict) in text
            if c.difference:
                assert f"{c.difference.value:+.4f}" in text


@pytest.mark.slow
def test_all_rows_run_and_share_one_split(finished) -> None:
    _, out = finished
    for name in report_2020.NAMES:
        assert (out / name / run_folder.SUMMARY).is_file(), name
    splits = {(out / name / run_folder.SPLIT).read_text() for name in [*TRAINED, "untrained"]}
    assert splits == {(out / run_folder.SPLIT).read_text()}
    assert not list(out.glob("*-2"))
    assert json.loads((out / reproduction.REASONS).read_text()) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bce", "frozen", "simple", "untrained"])
def test_a_row_is_a_run_folder_that_eval_reads(cli, finished, name: str) -> None:
    _, out = finished
    code, printed, err = cli("eval", out / name, "--json", "--threads=1")
    assert (code, err) == (0, "")
    at_half = json.loads(printed)["scores"]["at 0.5"]["micro_f1"]["value"]
    stored = summary(out, name)["validation"]["scores"]["at 0.5"]["micro_f1"]["value"]
    assert at_half == pytest.approx(stored)
    TrainConfig(**read_toml(out / name / run_folder.CONFIG))


@pytest.mark.slow
def test_the_reports_hold_the_numbers_of_the_run_folders(finished) -> None:
    _, out = finished
    for page in reports(out):
        text = re.sub("</?small>", "", page)
        for name in [*TRAINED, "untrained"]:
            starts = (f"| `{name}` |", f'<tr><th scope="row"><code>{name}</code></th>')
            line = next(
                line for line in text.splitlines() if starts[0] in line or starts[1] in line
            )
            for key in ("micro_f1", "subset_accuracy"):
                score = summary(out, name)["validation"]["scores"]["at 0.5"][key]
                assert f"{score['value']:.4f} ({score['low']:.3f}".replace("(0", "(") in line
        for name in TRAINED:
            last = list(csv.DictReader((out / name / run_folder.RESULTS).open()))[-1]
            assert f"{float(last['val_loss']):.4f}" in text
        for way in ("tuned on the same images", "cross-fitted"):
            score = summary(out, "thresholds_per_class")["validation"]["scores"][way]["micro_f1"]
            assert f"{score['value']:.4f}" in text


@pytest.mark.slow
def test_another_number_in_a_run_folder_is_another_number_in_the_report(cli, copied) -> None:
    data, out = copied
    content = summary(out, "bce")
    content["validation"]["scores"]["at 0.5"]["micro_f1"]["value"] = 0.12345
    files.write_json(out / "bce" / run_folder.SUMMARY, content)
    assert cli("reproduce", data, *OPTIONS, "--out", out, "--only", "bce")[0] == 0
    for text in reports(out):
        assert "0.1235" in text or "0.1234" in text
        assert "-0.5936" in text or "-0.5935" in text  # the difference to 0.7170


@pytest.mark.slow
def test_reduced_scale_is_said_at_the_top(finished) -> None:
    _, out = finished
    for text in reports(out):
        top = text[: text.index("All rows</h2>" if "<h2" in text else "## All rows")]
        for words in ("1 epoch instead of 20", "32 px instead of 128", "from scratch"):
            assert words in top
        assert "other data than the report" in top


class Page(HTMLParser):
    """Collects what a page refers to, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.links, self.tags = [], [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)


@pytest.mark.slow
def test_the_page_needs_nothing_else(finished) -> None:
    _, out = finished
    text = reports(out)[1]
    page = Page()
    page.feed(text)
    assert len(page.ids) == len(set(page.ids))
    ids = set(page.ids)
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in ids, link
    assert not re.search(r"url\((?!#)", text) and "script" not in page.tags
    assert page.tags.count("svg") == page.tags.count("figure") > 10
    assert "Content-Security-Policy" in text
    assert "prefers-color-scheme: dark" in text and "#2b2d42;" not in text.split("</style>")[1]


FIGURES = """
  const figures = [...document.querySelectorAll("figure svg")];
  const words = document.querySelector("figure svg text");
  return {
    figures: figures.length,
    shown: figures.filter(f => f.getBoundingClientRect().height > 100).length,
    ink: getComputedStyle(words).fill, font: getComputedStyle(words).fontFamily,
    page_font: getComputedStyle(document.body).fontFamily,
    ground: getComputedStyle(document.querySelector("figure")).backgroundColor,
  };
"""


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_the_page_opens_in_a_browser_in_light_and_dark(finished, tmp_path: Path) -> None:
    page = finished[1] / reproduce_report.HTML
    assert not browse(page, tmp_path / "profile", "light", 1280)[1]  # its policy allows it all
    for scheme, width in (("light", 1280), ("dark", 390)):
        found = seen(page, FIGURES, tmp_path / "profile", scheme, width)
        assert found["font"] == found["page_font"]
        assert found["figures"] == found["shown"] > 10
        ink, ground = brightness(found["ink"]), brightness(found["ground"])
        assert (ink - ground if scheme == "dark" else ground - ink) > 0.7
        assert found["needed"] <= found["width"]  # wide tables move within themselves
    assert needed_width(page, tmp_path / "profile", 390) == 390


@pytest.mark.slow
def test_the_markdown_shows_figures_that_are_there(finished) -> None:
    _, out = finished
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", reports(out)[0])
    assert len(shown) > 10
    for name in shown:
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def finding(row: report_2020.Row, micro_f1: float) -> RowResult:
    """Return what a full run of a row would leave behind."""
    score = {"value": micro_f1, "low": micro_f1 - 0.02, "high": micro_f1 + 0.02}
    keys = ("micro_f1", "macro_f1", "subset_accuracy", "mAP")
    scores = {way: dict.fromkeys(keys, score) for way in ("at 0.5", "cross-fitted")}
    values = {f"{part}_{key}": micro_f1 for part in ("train", "val") for key in ("loss", *keys)}
    history = [{"epoch": epoch} | values for epoch in range(1, 21)]
    content = {"epochs": 20, "train_s": 7200.0, "best": history[-1]}
    content["validation"] = {"num_images": 4000, "scores": scores}
    environment = {"gpu": "A GPU", "amp": "bf16", "packages": {"torch": "2.15.0"}}
    return RowResult(row, "", content, history, environment)


def test_a_full_study_is_compared_with_the_report(tmp_path: Path) -> None:
    of = Reproduction(data="x", out=tmp_path)
    ours = {"bce": 0.71, "mse": 0.75, "resnet34": 0.70}
    found = [
        finding(row, ours[row.name])
        if row.name in ours
        else RowResult(row, "not run yet", {}, [], {})
        for row in report_2020.ROWS
    ]
    text, drawings = reproduce_report.make(of, found)
    assert "At reduced scale" not in text
    assert "`bce`: the report's 0.7170 lies within our interval." in text
    assert "`mse`: ours is above the report's 0.6594" in text
    assert "`resnet34`: ours is below the report's 0.7709" in text
    assert "A GPU, bf16, torch 2.15.0" in text and "2.0 h" in text
    assert "report's last score dotted" in text
    assert "in the report</text>" in reproduce_report.to_html(text, drawings)


# --------------------------------------------------------------------------- not run again


@pytest.mark.slow
def test_a_finished_study_only_writes_its_reports(cli, finished, monkeypatch) -> None:
    data, out = finished
    before = reports(out)
    times = {p: p.stat().st_mtime_ns for name in report_2020.NAMES for p in (out / name).iterdir()}
    (out / reproduce_report.HTML).unlink()

    def never(*_: object) -> None:
        raise AssertionError("a finished row was run again")

    monkeypatch.setattr(trainer, "run", never)
    monkeypatch.setattr(reproduce._Runner, "_predict", never)
    code, printed, err = cli("reproduce", data, *OPTIONS, "--out", out)
    assert (code, err) == (0, "")
    assert printed.count("is there already") == len(report_2020.NAMES)
    assert reports(out) == before
    assert times == {
        p: p.stat().st_mtime_ns for name in report_2020.NAMES for p in (out / name).iterdir()
    }


@pytest.mark.slow
def test_a_stopped_row_goes_on_where_it_was(cli, photos_once, tmp_path, monkeypatch) -> None:
    command = ["reproduce", photos_once, *OPTIONS, "--epochs=2", "--only=bce,adam"]
    assert cli(*command, "--out", tmp_path / "whole")[0] == 0

    shown = progress.TrainDisplay.on_epoch

    def stop(self, *args: object) -> None:
        shown(self, *args)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # the signal is read by another thread

    monkeypatch.setattr(progress.TrainDisplay, "on_epoch", stop)
    out = tmp_path / "stopped"
    code, _, err = cli(*command, "--out", out)
    assert code == 130 and "the same command goes on" in err
    for text in reports(out):
        assert "stopped after 1 of 2 epochs" in text

    monkeypatch.setattr(progress.TrainDisplay, "on_epoch", shown)
    code, printed, err = cli(*command, "--out", out)
    assert (code, err) == (0, "") and "going on in epoch 2 of 2" in printed
    for name in ("bce", "adam"):
        same = [
            (tmp_path / kind / name / run_folder.LAST).read_bytes() for kind in ("whole", "stopped")
        ]
        assert same[0] == same[1]


@pytest.mark.slow
def test_a_row_that_went_wrong_says_why_and_is_tried_again(cli, photos_once, tmp_path) -> None:
    out = tmp_path / "out"
    command = ["reproduce", photos_once, *OPTIONS, "--epochs=2", "--out", out, "--only=bce"]
    with pytest.MonkeyPatch.context() as patch:
        keep = trainer.checkpointer.Checkpointer.save_epoch

        def full(self) -> None:
            keep(self)
            if (self.folder / run_folder.RESULTS).exists():
                raise GrigriError("the disk is full")

        patch.setattr(trainer.checkpointer.Checkpointer, "save_epoch", full)
        code, _, err = cli(*command)
    assert code == 1 and "the disk is full" in err
    assert all("the disk is full" in text for text in reports(out))
    code, printed, err = cli(*command)
    assert (code, err) == (0, "") and "going on in epoch 2 of 2" in printed
    assert "the disk is full" not in reports(out)[0]


@pytest.mark.slow
def test_a_row_that_was_killed_before_its_first_state_begins_anew(cli, copied) -> None:
    data, out = copied
    for path in (out / "bce").iterdir():
        if path.name not in (run_folder.CONFIG, run_folder.SPLIT):
            path.unlink()
    assert cli("reproduce", data, *OPTIONS, "--out", out, "--only=bce")[0] == 0
    assert (out / "bce" / run_folder.SUMMARY).is_file() and not (out / "bce-2").exists()


def test_what_is_in_the_way_is_not_removed(cli, photos_once, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "bce" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, _, err = cli("reproduce", photos_once, *OPTIONS, "--out", tmp_path / "out", "--only=bce")
    assert code == 1 and "mine.txt" in err and mine.read_text() == "mine"


# ------------------------------------------------------------------------------- refused


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, named",
    [
        (["--epochs=2"], "--epochs was 1"),
        (["--limit=40"], "--limit was None"),
        (["--size-scale=0.5"], "--size was 32"),
        (["--weights=imagenet"], "--weights was none"),
    ],
)
def test_other_options_are_refused_in_one_line(cli, copied, options: list, named: str) -> None:
    data, out = copied
    before = (out / "bce" / run_folder.SUMMARY).read_bytes()
    code, _, err = cli("reproduce", data, *OPTIONS, *options, "--out", out, "--only", "mse")
    assert code == 1 and err.count("\n") == 1
    assert named in err and "another --out" in err
    assert (out / "bce" / run_folder.SUMMARY).read_bytes() == before and not (out / "mse").exists()


@pytest.mark.slow
def test_other_data_are_refused(cli, copied, photos: Path) -> None:
    _, out = copied
    with (photos / "annotations" / "cat.txt").open("a") as file:
        file.write("1\n")
    code, _, err = cli("reproduce", photos, *OPTIONS, "--out", out, "--only", "mse")
    assert code == 1 and "im1.jpg" in err and "another --out" in err


@pytest.mark.parametrize(
    "options, code",
    [
        (["--only=bcee"], 2),
        (["--epochs=0"], 2),
        (["--size-scale=0"], 1),
        (["--size-scale=1.5"], 1),
        (["--weights=nowhere"], 1),
        (["--network=resnet81"], 1),
        (["--memory-limit=much"], 1),
    ],
)
def test_wrong_usage_is_one_line(cli, photos_once, tmp_path, options: list, code: int) -> None:
    got, _, err = cli("reproduce", photos_once, "--out", tmp_path / "out", *options)
    assert got == code and err.count("\n") == 1 and err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_no_data_is_one_line(cli, tmp_path: Path) -> None:
    code, _, err = cli("reproduce", tmp_path / "nowhere", *OPTIONS, "--out", tmp_path / "out")
    assert code == 1 and err.count("\n") == 1


# --------------------------------------------------------------------- rows that cannot run


@pytest.mark.slow
def test_a_missing_weight_file_is_explained(cli, photos_once, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    out = tmp_path / "out"
    command = ["reproduce", photos_once, *OPTIONS, f"--weights={weights}", "--out", out]
    code, printed, err = cli(*command, "--only=bce,simple,threshold")
    (name,) = factory.weight_files("shufflenet_v2_x0_5")
    assert (code, err) == (0, "")
    assert "could not be run" in printed and name in printed
    for text in reports(out):
        assert name in text and "needs the finished row" in text
    # The reason is still there when another row is asked for, and goes with its cause.
    assert cli(*command, "--only=simple")[0] == 0
    assert name in reports(out)[0]
    torch.save(factory.build("shufflenet_v2_x0_5", 1000, 32).state_dict(), weights / name)
    assert cli(*command, "--only=bce")[0] == 0
    assert (out / "bce" / run_folder.SUMMARY).is_file() and "no pretrained" not in reports(out)[0]
    config = read_toml(out / "bce" / run_folder.CONFIG)
    assert config["weights"] == str(weights / name)


def test_weights_that_cannot_be_downloaded_are_explained(
    cli, photos_once, tmp_path, monkeypatch
) -> None:
    tried = []

    def offline(*_: object, **__: object) -> None:
        tried.append(1)
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    out = tmp_path / "out"
    code, _, err = cli(
        *("reproduce", photos_once, *OPTIONS, "--weights=imagenet", "--out", out, "--only=bce,mse")
    )
    assert code == 1 and "no row could be run" in err and "no route to host" in err
    assert all("no route to host" in text for text in reports(out))
    assert len(tried) == 1  # a download that fails may take its time


def test_the_reports_own_weights_are_preferred_to_newer_ones(tmp_path: Path) -> None:
    names = factory.weight_files("wide_resnet50_2")
    assert names == ["wide_resnet50_2-95faca4d.pth", "wide_resnet50_2-9ba9bcbe.pth"]
    row = report_2020.Row("w", "w", options={"arch": "wide_resnet50_2"})
    of = Reproduction(data="x", out=tmp_path, weights=str(tmp_path))
    assert Path(of.weights_of(row)).name == names[1]
    for name in names:
        (tmp_path / name).touch()
    assert Path(of.weights_of(row)).name == names[0]


def test_simple_is_always_from_scratch(tmp_path: Path) -> None:
    of = Reproduction(data="x", out=tmp_path, weights="imagenet")
    assert of.weights_of(report_2020.row_named("simple")) == "none"


@pytest.mark.slow
def test_thresholds_are_tuned_again_for_another_model(finished, tmp_path: Path) -> None:
    data, out = finished
    for name in (report_2020.BASE, "threshold"):
        shutil.copytree(out / name, tmp_path / name)
    of = Reproduction(
        data=str(data), out=tmp_path, weights="none", epochs=1, size_scale=0.25, threads=1
    )
    row = report_2020.row_named("threshold")
    assert of.is_done(row)
    shutil.copy(out / "frozen" / run_folder.LAST, tmp_path / report_2020.BASE / run_folder.LAST)
    assert not of.is_done(row)


def test_an_unknown_row_is_an_error() -> None:
    with pytest.raises(GrigriError, match="the rows are data, bce"):
        report_2020.row_named("nothing")


# --------------------------------------------------------------------------- the real data


@pytest.mark.slow
def test_the_real_data_are_the_reports(cli, grigri: Path, tmp_path: Path) -> None:
    code, _, err = cli("reproduce", grigri, "--only=data", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    first = summary(tmp_path / "out", "data")["sets"][0]
    assert first["class_names"] == report_2020.CLASS_NAMES
    assert first["frequencies"] == report_2020.FREQUENCIES  # to the last digit
    assert first["nothing"]["subset_accuracy"]["value"] == pytest.approx(0.4912, abs=5e-5)
    assert first["always_micro_f1"] == pytest.approx(0.318, abs=5e-4)
    assert first["most_frequent"] == "people"
    text = reports(tmp_path / "out")[0]
    assert "the report's to the last digit (all 28)" in text and "11,098,110" in text
    data = dataset.load(grigri)
    parts = split.read(tmp_path / "out" / run_folder.SPLIT, data).parts
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(data)))
