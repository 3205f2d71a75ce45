"""What a resume checks: the stored state, the data, the options, and who else trains."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import LONG, SMALL, fit, results, same_end, start, stopping, wait_for
from small_set import write_image

from grigri_fast.config import OPTIONS
from grigri_fast.errors import GrigriError
from grigri_fast.runs import checkpoint, run_folder
from grigri_fast.training import resume

# --------------------------------------------------------------------------- damaged files


@pytest.fixture
def stopped(cli, photos: Path, tmp_path: Path, monkeypatch) -> Path:
    """Return a run that was stopped after seven of its ten steps."""
    with monkeypatch.context() as patch:
        stopping(patch, 7)
        options = [*SMALL, "--epochs=2", "--checkpoint-every=3", "--out", tmp_path]
        assert cli("train", photos, *options, "--name=run")[0] == 143
    return tmp_path / "run"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "a model": lambda path: shutil.copy(path.parent / run_folder.LAST, path),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_state_falls_back_to_the_one_before(
    cli, photos: Path, stopped: Path, how: str
) -> None:
    whole = fit(cli, photos, stopped.parent, *SMALL, "--epochs=2", "--name=whole")
    DAMAGES[how](stopped / run_folder.RESUME)
    code, out, err = cli("train", "--resume", stopped)
    assert (code, err) == (0, "")
    assert (
        f"{run_folder.RESUME}: " in out
        and f"going on from the one before, {run_folder.PREVIOUS}" in out
    )
    assert same_end(stopped, whole)


def test_a_kill_between_the_two_renames_loses_nothing(cli, photos: Path, stopped: Path) -> None:
    (stopped / run_folder.RESUME).rename(stopped / run_folder.PREVIOUS)
    notes = []
    _, progress = resume.load_state(stopped, notes.append)
    assert not notes and progress.batches == 2
    assert cli("train", "--resume", stopped)[0] == 0


def test_without_any_whole_state_it_says_what_to_do(cli, stopped: Path) -> None:
    for name in (run_folder.RESUME, run_folder.PREVIOUS):
        flip(stopped / name)
    code, _, err = cli("train", "--resume", stopped)
    assert code == 1 and err.count("\n") == 1 and "damaged" in err
    (stopped / run_folder.PREVIOUS).unlink()
    code, _, err = cli("train", "--resume", stopped)
    assert code == 1 and f"To repeat the run: grigri-fast train --config {stopped}" in err


class Trap:
    """Pickled, it is a command that whoever loads it carelessly executes."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.proof}",)


def test_nothing_in_a_file_is_executed(cli, photos: Path, stopped: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    trap = pickle.dumps({"fc.weight": Trap(proof)})
    pickle.loads(pickle.dumps(Trap(proof)))  # it would work
    assert proof.exists()
    proof.unlink()
    torch.save({"fc.weight": Trap(proof)}, tmp_path / "zip.pth")
    zipped = (tmp_path / "zip.pth").read_bytes()
    for content in (trap, zipped):
        for name in ("w.pth", "w.safetensors"):
            (tmp_path / name).write_bytes(content)
            weights = f"--weights={tmp_path / name}"
            code, _, err = cli("train", photos, *SMALL, weights, "--out", tmp_path / "none")
            assert code == 1 and err.count("\n") == 1
        for name in (run_folder.RESUME, run_folder.PREVIOUS, run_folder.LAST, run_folder.BEST):
            (stopped / name).write_bytes(content)
        for words in (
            ["train", "--resume", stopped],
            ["eval", stopped],
            ["predict", stopped, photos, "--checkpoint=best"],
        ):
            code, _, err = cli(*words)
            assert code == 1 and err.count("\n") == 1 and "damaged checkpoint" in err
    assert not proof.exists() and not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------ what changed


def refused(cli, folder: Path, *options: object) -> str:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    code, _, err = cli("train", "--resume", folder, *options)
    assert code == 1 and err.count("\n") == 1 and "Traceback" not in err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    return err


def relabel(photos: Path) -> None:
    file = photos / "annotations" / "cat.txt"
    file.write_text(file.read_text() + "1\n")


def remove(photos: Path) -> None:
    (photos / "images" / "im1.jpg").unlink()  # it has no label


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "added": (lambda photos: write_image(photos / "images" / "im99.jpg", 3), "im99.jpg added"),
    "removed": (remove, "im1.jpg removed"),
    "relabelled": (relabel, "im1.jpg (from no label to cat) relabelled"),
    "class": (lambda photos: (photos / "annotations" / "cow.txt").write_text("4\n"), "the classes"),
    "content": (lambda photos: write_image(photos / "images" / "im5.jpg", 99), "im5.jpg changed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_changed_data_are_named(cli, photos: Path, stopped: Path, kind: str) -> None:
    change, says = CHANGES[kind]
    change(photos)
    assert says in refused(cli, stopped)


def test_reordered_rows_of_a_csv_are_named(cli, photos: Path, tmp_path: Path, monkeypatch) -> None:
    lines = [f"im{n}.jpg,{'cat' if n % 3 else 'dog'}" for n in range(1, 49)]
    file = photos / "images" / "labels.csv"
    file.write_text("\n".join(["image,labels", *lines]))
    stopping(monkeypatch, 3)
    assert cli("train", file, *SMALL, "--out", tmp_path, "--name=run")[0] == 143
    lines[3], lines[4] = lines[4], lines[3]
    file.write_text("\n".join(["image,labels", *lines]))
    assert "number 4 was im4.jpg, is im5.jpg" in refused(cli, tmp_path / "run")


OTHER_VALUES = {
    "arch": "resnet18",
    "weights": "imagenet",
    "val": "0.3",
    "test": "0.1",
    "limit": "20",
    "size": "64",
    "batch_size": "4",
    "micro_batch_size": "4",
    "init": "he",
    "start_size": "16",
    "test_size": "64",
    "recipe": "best",
    "head_lr_factor": "2",
    "layer_decay": "0.5",
    "freeze_stages": "1",
    "warm_up": "0.2",
    "ema": "0.9",
    "sampler": "balanced",
    "most_repeats": "2",
    "least_area": "0.5",
    "rotation": "5",
    "color": "0.1",
    "erasing": "0.1",
    "mixup": "0.1",
    "cutmix": "0.1",
    "label_smoothing": "0.1",
    "loss": "mse",
    "optimizer": "adam",
    "schedule": "constant",
    "lr": "0.5",
    "momentum": "0.9",
    "momentum_min": "0.5",
    "weight_decay": "0.5",
    "seed": "7",
    "amp": "bf16",
    "compile": "on",
    "out": "elsewhere",
    "name": "other",
    "epochs": "3",
    "layout": "long",
    "image_column": "photo",
    "label_columns": "tags",
    "separator": "space",
    "no_label": "unknown",
    "split_column": "part",
    "group_column": "patient",
    "classes": "cat",
    "groups": "near-duplicates.csv",
    "corrections": "fixed.csv",
}


def test_options_that_make_another_run_are_refused(cli, stopped: Path) -> None:
    for name, value in OTHER_VALUES.items():
        flag = "--" + name.replace("_", "-")
        assert flag in refused(cli, stopped, f"{flag}={value}"), name
    assert "--split" in refused(cli, stopped, "--split=x.json")
    for flag in (
        "--freeze-backbone",
        "--freeze-norms",
        "--probe",
        "--activation-checkpointing",
        "--flip-test",
        "--train-norms",
        "--no-decay-all",
        "--no-fast",
    ):
        assert flag.replace("--no-", "--") in refused(cli, stopped, flag)
    # Its random maps have been drawn, so the first that contradicts it is named.
    assert "--no-augment" in refused(cli, stopped, "--no-augment")
    switches = {"freeze_backbone", "freeze_norms", "activation_checkpointing", "augment", "fast"}
    switches |= {"flip_test", "decay_all", "train_norms", "probe"}
    covered = {*OTHER_VALUES, "split", *switches}
    assert covered == {n for n, about in OPTIONS.items() if not about.may_change} | {"epochs"}


@pytest.mark.slow
def test_the_same_options_again_and_careful_ones_are_accepted(
    cli, photos: Path, stopped: Path, tmp_path: Path
) -> None:
    whole = fit(cli, photos, tmp_path, *SMALL, "--epochs=2", "--name=whole")
    moved = tmp_path / "moved"
    photos.rename(moved)
    options = ["--epochs=2", "--max-bad=0.3", "--checkpoint-every=2", "--max-pixels=5000"]
    code, _, err = cli("train", moved, "--resume", stopped, *options, "--threads=1")
    assert (code, err) == (0, "")
    assert same_end(stopped, whole)
    assert f'data = "{moved}"' in (stopped / run_folder.CONFIG).read_text()


@pytest.mark.slow
def test_more_epochs_where_the_schedule_permits(cli, photos: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--schedule=constant", "--out", tmp_path]
    whole = fit(cli, photos, tmp_path, *options, "--epochs=3", "--name=whole")
    first = fit(cli, photos, tmp_path, *options, "--epochs=1", "--name=run")
    code, out, err = cli("train", "--resume", first, "--epochs=3")
    assert (code, err) == (0, "") and "going on in epoch 2 of 3" in out
    assert same_end(first, whole)
    assert "it can only grow" in refused(cli, first, "--epochs=2")


def test_a_finished_run_has_nothing_to_do(cli, photos: Path, tmp_path: Path) -> None:
    folder = fit(cli, photos, tmp_path, *SMALL, "--name=run")
    (folder / run_folder.SUMMARY).rename(tmp_path / "summary")  # as if it had been killed before
    (folder / run_folder.RESULTS).unlink()
    before = {p.name: p.read_bytes() for p in folder.glob("*st*.safetensors")}
    code, out, err = cli("train", "--resume", folder)
    assert (code, err) == (0, "") and "all 1 epochs are done" in out
    assert (folder / run_folder.SUMMARY).read_text() == (tmp_path / "summary").read_text()
    assert {p.name: p.read_bytes() for p in folder.glob("*st*.safetensors")} == before
    assert len(results(folder)) == 1


def test_what_is_no_run_is_not_resumed(cli, photos: Path, stopped: Path, tmp_path: Path) -> None:
    for words, says in (
        (["--resume", tmp_path / "nowhere"], "no such run folder"),
        (["--resume", photos], "not a run folder"),
        (["--resume", stopped, "--config", stopped / run_folder.CONFIG], "leave --config out"),
    ):
        code, _, err = cli("train", *words)
        assert code == 1 and says in err and err.count("\n") == 1
    (stopped / run_folder.CONFIG).write_text("epochs = 2\n")
    assert "does not say which data" in refused(cli, stopped)


# ------------------------------------------------------------------------------- concurrency


def test_two_processes_do_not_train_in_one_folder(cli, stopped: Path) -> None:
    with run_folder.locked(stopped):
        code, _, err = cli("train", "--resume", stopped)
    assert code == 1 and f"{stopped}: another process is training in this folder" in err
    with pytest.raises(GrigriError), run_folder.locked(stopped), run_folder.locked(stopped):
        pass


@pytest.mark.timeout(120)
def test_two_runs_at_once_have_two_folders(photos_once: Path, tmp_path: Path) -> None:
    words = ["train", photos_once, *SMALL, "--threads=1", "--out", tmp_path, "--name=run"]
    processes = [start(*words) for _ in range(2)]
    for process in processes:
        _, err = process.communicate()
        assert (process.returncode, err) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run-2"]
    assert same_end(tmp_path / "run", tmp_path / "run-2")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_run_is_read_while_it_trains(cli, photos_once: Path, tmp_path: Path) -> None:
    options = [*LONG, "--epochs=500"]
    process = start("train", photos_once, *options, "--out", tmp_path, "--name=run")
    folder = tmp_path / "run"
    wait_for(folder / run_folder.RESULTS, process)
    epochs = set()
    rounds = 0
    while rounds < 3 or len(epochs) < 2:
        rounds += 1
        code, _, err = cli("eval", folder, "--json")
        assert (code, err) == (0, "")
        code, _, err = cli("predict", folder, photos_once / "images", "--checkpoint=best")
        assert (code, err) == (0, "")
        epochs.add(checkpoint.info_of(folder / run_folder.LAST).epoch)
    assert process.poll() is None  # it trained all the time
    process.kill()
    process.communicate()


def test_every_option_either_stays_or_may_change() -> None:
    assert {name for name, about in OPTIONS.items() if about.may_change} == {
        "data",
        "images",
        "max_bad",
        "strict",
        "max_pixels",
        "epochs",
        "device",
        "threads",
        "cache",
        "memory_limit",
        "checkpoint_every",
        "tensorboard",
    }
