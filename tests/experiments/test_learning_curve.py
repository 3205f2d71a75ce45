"""learning-curve through the real command, and what it refuses."""

import csv
import json
from pathlib import Path

import pytest
import torch
import torchvision
from small_set import write_photos

import grigri_fast
from grigri_fast.errors import GrigriError

FILES = {f"learning-curve{end}" for end in (".json", ".csv", "-classes.csv", ".png", ".html")}
SMALL = ["--arch=shufflenet_v2_x0_5", "--size=32", "--threads=1", "--subsets=2"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Return a file of weights that nothing was trained for, with features of a usual size."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "some.pth"
    model = torchvision.models.shufflenet_v2_x0_5().train()
    with torch.no_grad():
        for _ in range(30):  # of BatchNorm's averages
            model(torch.randn(16, 3, 32, 32))
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.slow
def test_it_measures_and_writes(cli, photos_once, weights, tmp_path) -> None:
    out = tmp_path / "out"
    code, printed, err = cli(
        "learning-curve", photos_once, *SMALL, f"--weights={weights}", "--out", out
    )
    assert (code, err) == (0, "")
    assert {path.name for path in out.iterdir()} == FILES
    assert "twice as many images would bring: micro-F1 +" in printed
    with (out / "learning-curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["images"]) for row in rows] == [15, 27, 38, 76]
    assert [int(row["subsets"]) for row in rows] == [2, 2, 1, 0]
    stored = json.loads((out / "learning-curve.json").read_text())
    assert stored["network"].startswith("shufflenet_v2_x0_5 at 32 px")
    assert stored["num_val"] == 10
    assert float(rows[2]["micro_f1"]) == stored["points"][2]["micro_f1"]["value"]
    with (out / "learning-curve-classes.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["cat", "dog", "sky"]
    again = grigri_fast.learning_curve(
        photos_once,
        arch="shufflenet_v2_x0_5",
        size=32,
        weights=str(weights),
        subsets=2,
        threads=1,
        out=tmp_path / "again",
    )
    assert again.curve.points[-1].micro_f1.value == float(rows[2]["micro_f1"])


@pytest.mark.slow
def test_of_a_run_it_has_the_data_and_the_network_and_report_shows_it(
    cli, weights, tmp_path
) -> None:
    photos = write_photos(tmp_path / "photos")
    options = ["--recipe=report", "--epochs=1", "--batch-size=8", "--amp=fp32"]
    code, _, err = cli(
        "train", photos, *SMALL[:3], f"--weights={weights}", *options, "--out", tmp_path / "runs"
    )
    assert (code, err) == (0, "")
    (run,) = (tmp_path / "runs").iterdir()
    assert cli("learning-curve", run, "--subsets=1", "--threads=1")[0] == 0
    assert {path.name for path in run.iterdir()} >= FILES
    assert cli("report", run, "--threads=1")[0] == 0
    page = (run / "report.html").read_text()
    assert 'id="more"' in page and "with twice as many images" in page
    code, _, err = cli("learning-curve", run, "--arch=resnet18")
    assert code == 1 and "--arch: the run" in err and "has its own" in err


def test_what_does_not_go_is_said_in_a_line(cli, photos_once, tmp_path) -> None:
    code, _, err = cli("learning-curve", photos_once, "--weights=none")
    assert code == 1 and "needs a pretrained network" in err
    code, _, err = cli("learning-curve", tmp_path / "nothing")
    assert code == 1 and err.startswith("error: ")
    with pytest.raises(TypeError, match="has no option 'epochs'"):
        grigri_fast.learning_curve(photos_once, epochs=3)
    with pytest.raises(GrigriError, match="--subsets must be at least 1, not 0"):
        grigri_fast.learning_curve(photos_once, subsets=0)
