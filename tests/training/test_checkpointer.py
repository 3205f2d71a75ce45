"""What a run writes after each epoch, and what is left of it if it ends early."""

import json
import os

import numpy as np
import pytest
import torch
from small_runs import (
    SMALL,
    TIMES,
    after_epoch,
    check_run_is_whole,
    fit,
    header,
    results,
    same,
    stopping,
    tensors,
)

from grigri_fast.reporting import plots
from grigri_fast.training import checkpointer
from grigri_fast.training import scores as scores_of_epoch

# ------------------------------------------------------------------------- the run folder


def test_results_are_full_and_agree_with_what_is_stored(cli, photos, tmp_path) -> None:
    run = fit(cli, photos, tmp_path, *SMALL, "--epochs=3")
    rows = results(run)
    assert list(rows[0]) == [
        "epoch",
        "lr",
        "train_loss",
        "train_micro_f1",
        "train_subset_accuracy",
        "val_loss",
        "val_micro_f1",
        "val_subset_accuracy",
        "val_macro_f1",
        "val_mAP",
        *TIMES,
    ]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert json.loads((run / "summary.json").read_text())["last"] == rows[-1]
    stored = header(run)["scores"]
    assert stored == {k.removeprefix("val_"): v for k, v in rows[-1].items() if "val_" in k}


def scripted(scores: list[tuple[float, float]]):
    """Return a stand-in for the scores of the validation part: (micro-F1, loss) per epoch."""
    rest = iter(scores)

    def val_scores(*args) -> dict[str, float]:
        f1, loss = next(rest)
        numbers = {"subset_accuracy": 0.5, "macro_f1": 0.5, "mAP": 0.5}
        return {"loss": loss, "micro_f1": f1, **numbers}

    return val_scores


@pytest.mark.slow
@pytest.mark.parametrize(
    "scores, best",
    [
        ([(0.0, 0.9), (0.7, 0.5), (0.7, 0.4), (0.6, 0.1)], 3),  # the loss breaks ties
        ([(0.7, 0.4), (0.7, 0.4), (0.7, 0.5)], 1),  # the first of equals stays
        ([(0.0, 0.5), (0.0, 0.4), (0.0, 0.6)], 2),  # where no label is ever given
    ],
)
def test_best_holds_the_weights_of_the_best_epoch(
    cli, photos, tmp_path, monkeypatch, scores: list, best: int
) -> None:
    options = [*SMALL, "--schedule=constant"]  # under which a shorter run is the start of a longer
    shorter = fit(cli, photos, tmp_path, *options, f"--epochs={best}")
    monkeypatch.setattr(scores_of_epoch, "validation", scripted(scores))
    run = fit(cli, photos, tmp_path, *options, f"--epochs={len(scores)}")
    assert header(run, "best")["epoch"] == best and header(run)["epoch"] == len(scores)
    assert json.loads((run / "summary.json").read_text())["best"]["epoch"] == best
    first, second = tensors(run, "best"), tensors(shorter)
    assert all(torch.equal(first[k], second[k]) for k in second)
    assert not same(run, shorter)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_epochs_before(cli, photos, tmp_path, monkeypatch) -> None:
    after_epoch(monkeypatch, 2, interrupt)
    code, _, err = cli("train", photos, *SMALL, "--epochs=5", "--out", tmp_path, "--name=run")
    assert (code, err) == (130, "interrupted\n")
    check_run_is_whole(cli, tmp_path / "run", epochs=2)


@pytest.mark.slow
def test_curves_are_drawn_after_the_first_and_last_epoch_and_at_a_stop(
    cli, photos_once, tmp_path, monkeypatch
) -> None:
    drawn: list[int] = []
    curves = plots.curves

    def counted(history: list[dict], title: str) -> bytes:
        drawn.append(len(history))
        return curves(history, title)

    monkeypatch.setattr(plots, "curves", counted)
    monkeypatch.setattr(checkpointer, "_CURVES_EVERY_S", float("inf"))
    steps_per_epoch = 5
    stopping(monkeypatch, 3 * steps_per_epoch + 1)
    options = [*SMALL, "--epochs=5", "--out", tmp_path, "--name=run"]
    assert cli("train", photos_once, *options)[0] == 143
    assert drawn == [1, 3] and len(results(tmp_path / "run")) == 3
    assert cli("train", "--resume", tmp_path / "run")[0] == 0
    assert drawn == [1, 3, 4, 5]


class Failing:
    """Stands in for os.fsync and fails from some call on."""

    def __init__(self, error: type[BaseException], *args: object) -> None:
        self.fsync, self.armed, self.error = os.fsync, False, error(*args)

    def __call__(self, file: int) -> None:
        if self.armed:
            raise self.error
        self.fsync(file)

    def arm(self) -> None:
        self.armed = True


@pytest.mark.slow
@pytest.mark.parametrize(
    "error, code, says",
    [
        ((OSError, 28, "No space left on device"), 1, "cannot be written: No space left on device"),
        ((KeyboardInterrupt,), 130, "interrupted"),
    ],
)
def test_a_write_that_fails_leaves_the_epochs_before(
    cli, photos, tmp_path, monkeypatch, error: tuple, code: int, says: str
) -> None:
    fsync = Failing(*error)
    monkeypatch.setattr("os.fsync", fsync)
    after_epoch(monkeypatch, 1, fsync.arm)
    found, _, err = cli("train", photos, *SMALL, "--epochs=3", "--out", tmp_path, "--name=run")
    assert found == code and says in err and err.count("\n") == 1
    assert code != 1 or err.endswith(f"; go on with: grigri-fast train --resume {tmp_path}/run\n")
    check_run_is_whole(cli, tmp_path / "run", epochs=1)
