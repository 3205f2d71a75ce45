"""--tensorboard: what TensorBoard's own reader finds in the files."""

import csv
import importlib.util
import os
import time
from pathlib import Path

import pytest
from small_runs import SMALL, fit

from grigri_fast.cli import progress
from grigri_fast.training import tensorboard as tracker
from grigri_fast.training import trainer

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

OPTIONS = [*SMALL, "--tensorboard", "--seed=0", "--threads=1"]


@pytest.fixture(autouse=True)
def every_step(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "_SHOW_EVERY_S", -1)


def read(run: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) by tag, but for what the machine's speed decides."""
    found = read(run)
    return {
        tag: [(e.step, e.value) for e in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if "seconds" not in tag and "images_per_s" not in tag
    }


@pytest.fixture(scope="module")
def whole(photos_once, tmp_path_factory) -> Path:
    from grigri_fast import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_SHOW_EVERY_S", -1)
        return train(
            photos_once,
            arch="shufflenet_v2_x0_5",
            weights="none",
            recipe="report",
            size=32,
            epochs=3,
            batch_size=8,
            amp="fp32",
            threads=1,
            seed=0,
            tensorboard=True,
            out=tmp_path_factory.mktemp("runs"),
        ).folder


def test_results_are_there_as_scalars(whole) -> None:
    found = scalars(whole)
    with (whole / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for name in rows[0]:
        part, _, key = name.partition("_")
        tag = f"{part}/{key}" if part in ("train", "val") else f"epoch/{name}"
        events = read(whole).Scalars(tag)
        assert [e.step for e in events] == [5, 10, 15]  # 38 images in batches of 8
        assert [e.value for e in events] == pytest.approx([float(row[name]) for row in rows])
    assert [step for step, _ in found["step/loss"]] == list(range(1, 16))
    assert found["step/loss"][-1][1] == pytest.approx(float(rows[-1]["train_loss"]))
    assert found["step/lr"][-1][1] == pytest.approx(float(rows[-1]["lr"]))


def test_the_curves_are_there_as_pictures(whole) -> None:
    (*_, last) = read(whole).Images("curves")
    assert last.step == 15 and last.width > 300 and last.encoded_image_string[1:4] == b"PNG"


def test_options_and_last_scores_are_there_as_hparams(whole) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    with (whole / "results.csv").open() as file:
        (*_, row) = csv.DictReader(file)
    found = scalars(whole)
    assert found["last/val_mAP"] == [(15, pytest.approx(float(row["val_mAP"])))]
    assert len(found["last/micro_f1 cross-fitted"]) == 1
    content = read(whole).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["arch"].string_value == "shufflenet_v2_x0_5"
    assert options["batch_size"].number_value == 8


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in an epoch", "before the row is written", "after the end"])
def test_a_resumed_run_has_everything_once(
    cli, photos_once, whole, tmp_path, monkeypatch, where: str
) -> None:
    options = [*OPTIONS, "--epochs=3", "--checkpoint-every=3", "--out", tmp_path, "--name=run"]

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "in an epoch":  # two steps after the state was stored
            patch.setattr(
                progress.TrainDisplay,
                "on_step",
                lambda self, epoch, step_, *rest: killed() if step_ == 10 else None,
            )
        elif where == "before the row is written":
            epoch = tracker.Tracker.on_epoch
            patch.setattr(
                tracker.Tracker,
                "on_epoch",
                lambda self, row, *rest: killed() if row["epoch"] == 2 else epoch(self, row, *rest),
            )
        code, _, _ = cli("train", photos_once, *options)
    assert code == (0 if where == "after the end" else 130)
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1 + (code == 0)
    time.sleep(1.1)  # files are read in the order of their names, which hold the second
    assert cli("train", "--resume", tmp_path / "run")[0] == 0
    ours, expected = scalars(tmp_path / "run"), scalars(whole)
    assert ours.keys() == expected.keys()
    for tag, events in expected.items():
        assert ours[tag] == events, tag
    assert [e.step for e in read(tmp_path / "run").Images("curves")] == [5, 10, 15]


@pytest.mark.slow
def test_it_may_be_switched_on_later(cli, photos_once, tmp_path) -> None:
    run = fit(cli, photos_once, tmp_path, *SMALL, "--schedule=constant")
    assert not (run / "tensorboard").exists()
    code, _, err = cli("train", "--resume", run, "--epochs=2", "--tensorboard")
    assert (code, err) == (0, "")
    assert [step for step, _ in scalars(run)["val/mAP"]] == [5, 10]


def test_a_missing_extra_is_one_line_before_anything_is_done(
    cli, photos_once, tmp_path, monkeypatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else there(name)
    )
    out = tmp_path / "runs"
    code, printed, err = cli("train", photos_once, *OPTIONS, "--out", out)
    assert (code, printed) == (1, "")
    assert err == "error: --tensorboard needs TensorBoard: pip install tensorboard\n"
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_one_line(
    cli, photos_once, tmp_path, monkeypatch
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    code, _, err = cli("train", photos_once, *OPTIONS, "--out", tmp_path, "--name=run")
    assert code == 1 and err.count("\n") == 1
    assert f"{tmp_path}/run/tensorboard: cannot be written: No space left on device" in err
    assert f"--resume {tmp_path}/run" in err
