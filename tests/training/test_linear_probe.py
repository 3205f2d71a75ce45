"""What a run with loaded weights begins with, seen through the real command."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import NO_MOVE, fit, header, results, same, tensors
from torch import nn

from grigri_fast.inference import features
from grigri_fast.models import factory
from grigri_fast.training import linear_probe

OPTIONS = ["--arch=shufflenet_v2_x0_5", "--size=32", "--batch-size=8", "--amp=fp32"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Return a file of weights, which have learned nothing."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(factory.build("shufflenet_v2_x0_5", 7, 32).state_dict(), file)
    return file


@pytest.fixture
def probed(cli, photos, tmp_path, weights) -> Path:
    return fit(cli, photos, tmp_path / "runs", *OPTIONS, "--weights", weights, "--epochs=0")


def test_a_probe_alone_is_a_run_like_any_other(cli, photos, tmp_path, probed) -> None:
    (row,) = results(probed)
    summary = json.loads((probed / "summary.json").read_text())
    assert (row["epoch"], summary["epochs"], header(probed)["epoch"]) == (0, 0, 0)
    assert row["train_micro_f1"] > 0.5  # a head of many features fits a few photographs
    scores = summary["validation"]["scores"]["at 0.5"]
    assert scores["micro_f1"]["value"] == pytest.approx(row["val_micro_f1"])
    assert same(probed, probed, "best") and same(probed, probed)
    for words in (["eval", probed], ["predict", probed, photos / "images"], ["report", probed]):
        code, printed, err = cli(*words)
        assert (code, err) == (0, ""), printed


def test_the_stored_model_gives_the_scores_of_the_row(cli, probed) -> None:
    code, printed, _ = cli("eval", probed, "--amp=fp32")
    assert code == 0
    assert f"{results(probed)[0]['val_micro_f1']:.4f}" in printed


def test_features_are_computed_once(cli, photos, tmp_path, weights, probed, monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features, "_features_of", never)
    again = fit(cli, photos, tmp_path / "runs", *OPTIONS, "--weights", weights, "--epochs=0")
    assert again != probed and same(again, probed)


def test_training_goes_on_from_the_probe(cli, photos, tmp_path, weights, probed) -> None:
    options = ["--epochs=1", NO_MOVE, "--schedule=constant", "--ema=0", "--freeze-stages=0"]
    run = fit(cli, photos, tmp_path / "runs", *OPTIONS, "--weights", weights, *options)
    first, second = results(run)
    assert (first["epoch"], second["epoch"]) == (0, 1)
    assert second["val_loss"] == pytest.approx(first["val_loss"], abs=2e-3)
    head, of_probe = tensors(run)["fc.weight"], tensors(probed)["fc.weight"]
    torch.testing.assert_close(head, of_probe)


def test_a_photograph_that_has_gone_bad_is_left_out(cli, photos, tmp_path, weights, monkeypatch):
    compute = features.compute_features

    def spoiling(network, paths, checked, rows, **options):
        paths[int(rows[0])].unlink()
        return compute(network, paths, checked, rows, **options)

    monkeypatch.setattr(features, "compute_features", spoiling)
    run = fit(cli, photos, tmp_path / "runs", *OPTIONS, "--weights", weights, "--epochs=0")
    # One before each of the two passes: over all images, and over mirror images of validation.
    assert len((run / "quarantine.csv").read_text().splitlines()) == 1 + 2


class Peak(nn.Module):
    """A network whose logits are the highest at any place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).amax((2, 3))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            nn.Sequential(
                nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
            ),
            True,
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), True),
        (Peak(), False),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU()), False),
    ],
)
def test_a_linear_head_is_known_by_what_it_computes(network: nn.Module, expected: bool) -> None:
    torch.manual_seed(0)
    assert linear_probe.is_linear(network, 8, torch.device("cpu")) is expected


def test_a_network_without_a_linear_head_is_trained_without_a_probe(cli, photos, tmp_path) -> None:
    file = tmp_path / "grigri.pth"
    torch.save(factory.build("grigri", 7, 32).state_dict(), file)
    options = ["--arch=grigri", "--size=32", "--weights", file, "--epochs=1", "--batch-size=16"]
    code, printed, err = cli("train", photos, "--out", tmp_path / "runs", *options)
    assert (code, err) == (0, "")
    assert "no linear probe: the head of grigri is not a linear one" in printed
    code, _, err = cli("train", photos, "--out", tmp_path / "runs", *options, "--epochs=0")
    assert code == 1 and "--epochs 0" in err and len(err.splitlines()) == 1


def test_features_that_are_no_numbers_are_refused(cli, photos, tmp_path, weights, monkeypatch):
    compute = features.compute_features

    def overflowing(*args, **options):
        found = compute(*args, **options)
        found.features_VND[:] = float("nan")
        return found

    monkeypatch.setattr(features, "compute_features", overflowing)
    options = ["--weights", weights, "--epochs=0", "--out", tmp_path / "runs"]
    code, _, err = cli("train", photos, *OPTIONS, *options)
    assert code == 1 and "not finite in fp32" in err and len(err.splitlines()) == 1
