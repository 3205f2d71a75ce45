"""What the options of network, loss, optimizer and schedule do, seen through the real command.

Most runs here take one step over all images with a frozen backbone, so that what an option does to
the head can be computed by hand.
"""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from small_runs import (
    NO_MOVE,
    SMALL,
    TINY,
    fit,
    head,
    parts,
    results,
    tensors,
)
from small_set import CLASSES, labels_of

from grigri_fast.cli.main import main
from grigri_fast.models import factory


def targets(names: list[str]) -> np.ndarray:
    """Return the labels (N, C) of images of ``photos``."""
    rows = [int(name.removeprefix("im").removesuffix(".jpg")) - 1 for name in names]
    return np.array([[float(c in labels_of(row)) for c in CLASSES] for row in rows])


def predicted(cli, run: Path, files: list[Path]) -> np.ndarray:
    """Return the probabilities (N, C) that the command predict gives."""
    out = run / "predicted.json"
    assert cli("predict", run, *files, "--amp=fp32", "--out", out)[0] == 0
    found = json.loads(out.read_text())
    assert [one["image"] for one in found] == [str(f) for f in files]
    return np.array([[one["probabilities"][c] for c in CLASSES] for one in found])


# ------------------------------------------------------------------------------- one step


@pytest.fixture(scope="module")
def one_step(tmp_path_factory) -> list[str]:
    """Return the options of one step of plain SGD on the head, over the images as they are.

    The backbone is an untrained one from a file, with features scaled so that they matter.
    """
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5().eval()
    features = []
    model.fc.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32))
        model.conv5[1].weight.mul_(0.3 / features[0].square().mean().sqrt())
    file = tmp_path_factory.mktemp("backbone") / "w.safetensors"
    safetensors.torch.save_file(model.state_dict(), file)
    options = [*SMALL, f"--weights={file}", "--batch-size=64", "--freeze-backbone", "--no-augment"]
    return [*options, "--schedule=constant", "--momentum=0", "--weight-decay=0"]


@pytest.fixture(scope="module")
def start(photos_once: Path, tmp_path_factory, one_step: list[str]) -> Path:
    """Return a run whose weights are those that every one-step run starts from."""
    out = tmp_path_factory.mktemp("start")
    words = ["train", photos_once, *one_step, NO_MOVE, "--threads=1", "--out", out]
    assert main(list(map(str, words))) == 0
    return out / "photos-shufflenet_v2_x0_5"


def test_the_head_starts_at_the_log_odds_of_the_training_images(start: Path) -> None:
    frequency = targets(parts(start)["train"]).mean(0)
    assert head(start)[1] == pytest.approx(np.log(frequency / (1 - frequency)), rel=1e-6)


def losses(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    return {
        "bce": -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(),
        "mse": ((p - t) ** 2).mean(),
    }


def bias_gradients(p: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
    """Return the derivative of each loss by the head's bias."""
    return {
        "bce": (p - t).mean(0) / len(CLASSES),
        "mse": (2 * (p - t) * p * (1 - p)).mean(0) / len(CLASSES),
    }


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_loss_and_lr_decide_the_step(
    cli, photos, one_step, start: Path, tmp_path, loss: str
) -> None:
    names = parts(start)["train"]
    p = predicted(cli, start, [photos / "images" / name for name in names])
    t = targets(names)
    run = fit(cli, photos, tmp_path, *one_step, f"--loss={loss}", "--lr=2")
    # Labels and pixels have met: the loss over the epoch is that of what predict sees.
    assert results(run)[0]["train_loss"] == pytest.approx(losses(p, t)[loss], rel=1e-5)
    moved = head(run)[1] - head(start)[1]
    assert moved == pytest.approx(-2 * bias_gradients(p, t)[loss], rel=1e-3, abs=1e-6)
    assert np.abs(moved).max() > 1e-3
    # And the validation loss is that of the stored weights.
    names = parts(run)["val"]
    p = predicted(cli, run, [photos / "images" / name for name in names])
    assert results(run)[0]["val_loss"] == pytest.approx(losses(p, targets(names))[loss], rel=1e-5)


# The first step of Adam is lr x sign(gradient); RMSprop's, with alpha 0.99, ten times that.
@pytest.mark.slow
@pytest.mark.parametrize("name, factor", [("adam", 1), ("amsgrad", 1), ("rmsprop", 10)])
def test_the_first_step_of_an_optimizer(
    cli, photos, one_step, start: Path, tmp_path, name: str, factor: float
) -> None:
    plain = fit(cli, photos, tmp_path / "sgd", *one_step, "--lr=0.5")
    run = fit(cli, photos, tmp_path, *one_step, f"--optimizer={name}", "--lr=0.001")
    down = head(plain)[1] - head(start)[1]
    moved = head(run)[1] - head(start)[1]
    assert moved == pytest.approx(0.001 * factor * np.sign(down), rel=1e-2)


def test_weight_decay_pulls_the_weights_to_zero(
    cli, photos, one_step, start: Path, tmp_path
) -> None:
    options = [*one_step, "--lr=0.5"]
    plain = head(fit(cli, photos, tmp_path, *options))
    decayed = head(fit(cli, photos, tmp_path, *options, "--weight-decay=0.1"))
    for without, pulled, first in zip(plain, decayed, head(start), strict=True):
        assert pulled - without == pytest.approx(-0.5 * 0.1 * first, rel=1e-3, abs=1e-6)
        assert np.abs(pulled - without).max() > 1e-3


def torchs_one_cycle(num_steps: int, lr: float, low: float, high: float) -> list[tuple]:
    """Return learning rate and momentum of each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=lr,
        total_steps=num_steps,
        base_momentum=low,
        max_momentum=high,
        final_div_factor=lr / 25 / 1e-7,
    )
    course = []
    for _ in range(num_steps):
        group = optimizer.param_groups[0]
        course.append((group["lr"], group["momentum"]))
        optimizer.step()
        schedule.step()
    return course


def way(course: list[tuple]) -> float:
    """Return how far SGD goes against a gradient of 1 that does not change."""
    speed = distance = 0.0
    for lr, momentum in course:
        speed = momentum * speed + 1
        distance += lr * speed
    return distance


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, course",
    [
        (["--momentum=0.9"], [(1e-3, 0.9)] * 4),
        (["--momentum=0.5"], [(1e-3, 0.5)] * 4),
        (["--momentum=0.9", "--schedule=onecycle"], torchs_one_cycle(4, 1e-3, 0.85, 0.9)),
        (
            ["--momentum=0.9", "--momentum-min=0.1", "--schedule=onecycle"],
            torchs_one_cycle(4, 1e-3, 0.1, 0.9),
        ),
    ],
    ids=str,
)
def test_momentum_adds_up(
    cli, photos, one_step, start: Path, tmp_path, options: list, course: list
) -> None:
    # At a learning rate this low the gradient stays what it was.
    once = fit(cli, photos, tmp_path / "once", *one_step, "--lr=0.001")
    run = fit(cli, photos, tmp_path, *one_step, "--lr=0.001", "--epochs=4", *options)
    unit, moved = (head(r)[0] - head(start)[0] for r in (once, run))
    factor = (moved * unit).sum() / (unit * unit).sum()
    assert factor == pytest.approx(way(course) / 1e-3, rel=0.02)
    assert [row["lr"] for row in results(run)] == pytest.approx([lr for lr, _ in course])


@pytest.mark.slow
def test_a_frozen_backbone_stands_still_and_a_free_one_does_not(cli, photos, tmp_path) -> None:
    start, frozen, free = (
        tensors(fit(cli, photos, tmp_path, *SMALL, *options))
        for options in (
            ["--freeze-backbone", NO_MOVE],
            ["--freeze-backbone", "--epochs=2", "--lr=0.1", "--weight-decay=0.1"],
            ["--lr=0.1"],
        )
    )
    assert {k for k in start if not torch.equal(start[k], frozen[k])} == {"fc.weight", "fc.bias"}
    moved = {k for k in start if not torch.equal(start[k], free[k])}
    assert {"conv1.0.weight", "conv1.1.running_mean", "conv1.1.running_var", "fc.bias"} <= moved


# --------------------------------------------------------------------- batches and epochs


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch_size, steps",
    [(8, 5), (19, 2), (38, 1), (64, 1), (37, 1)],  # of 37 + 1, the one joins the others
)
def test_batches_in_an_epoch(cli, photos, tmp_path, batch_size: int, steps: int) -> None:
    options = [*SMALL, "--epochs=4", "--lr=0.02", f"--batch-size={batch_size}"]
    run = fit(cli, photos, tmp_path, *options)
    assert len(parts(run)["train"]) == 38
    course = torchs_one_cycle(4 * steps, 0.02, 0.85, 0.95)
    rates = [lr for lr, _ in course[steps - 1 :: steps]]
    assert [row["lr"] for row in results(run)] == pytest.approx(rates)


@pytest.mark.slow
def test_augmentation_is_new_in_every_epoch(cli, photos, one_step, tmp_path) -> None:
    options = [*one_step, NO_MOVE, "--epochs=3"]
    plain = fit(cli, photos, tmp_path, *options)
    augmented = fit(cli, photos, tmp_path, *options, "--augment")
    first, *others = (row["train_loss"] for row in results(plain))
    assert others == pytest.approx([first] * 2, rel=1e-6)
    losses = [row["train_loss"] for row in results(augmented)]
    assert all(
        abs(a / b - 1) > 1e-5 for a, b in zip([first, *losses], [*losses, first], strict=True)
    )
    # What is validated on is not augmented.
    assert len({round(row["val_loss"], 6) for r in (plain, augmented) for row in results(r)}) == 1


def test_machine_options_stand_in_the_environment(cli, photos, tmp_path) -> None:
    for amp in ("fp32", "bf16"):
        options = [*SMALL, f"--amp={amp}", "--threads=1", "--device=cpu"]
        run = fit(cli, photos, tmp_path, *options)
        environment = json.loads((run / "environment.json").read_text())
        config = tomllib.loads((run / "config.toml").read_text())
        assert (environment["amp"], environment["cpu_threads"]) == (amp, 1)
        assert environment["device"] == config["device"] == "cpu"
        assert (config["amp"], config["threads"]) == (amp, 1)


def test_bf16_trains_nearly_as_fp32_does(cli, photos, one_step, tmp_path) -> None:
    loss = {}
    for amp in ("fp32", "bf16"):
        run = fit(cli, photos, tmp_path, *one_step, NO_MOVE, f"--amp={amp}")
        loss[amp] = results(run)[0]["train_loss"]
    assert loss["fp32"] != loss["bf16"] == pytest.approx(loss["fp32"], rel=1e-2)


@pytest.mark.slow
def test_norms_for_training_are_not_in_what_is_stored(cli, photos_once, tmp_path) -> None:
    """The stored network has no norms, and scores what the one with norms did."""
    options = [*TINY, "--arch=simple", "--train-norms", "--epochs=2", "--lr=0.05"]
    run = fit(cli, photos_once, tmp_path, *options)
    keys = tensors(run).keys()
    assert not any("running_mean" in key for key in keys)
    assert keys == factory.build("simple", 3, 32).state_dict().keys()
    code, out, _ = cli("eval", run, "--json", "--amp=fp32")
    stored = json.loads((run / "summary.json").read_text())["validation"]["scores"]
    assert code == 0
    for way, scores in json.loads(out)["scores"].items():
        assert scores["mAP"]["value"] == pytest.approx(stored[way]["mAP"]["value"], abs=1e-4)
