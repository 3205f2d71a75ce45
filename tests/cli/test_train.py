"""train on small data: what it prints and leaves behind, and what options do."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from small_runs import QUICK, header, run_of, tensors
from small_set import CLASSES, labels_of, write_image

FILES = {
    "best.safetensors",
    "config.toml",
    "curves.png",
    "data.json",
    "environment.json",
    "last.safetensors",
    "results.csv",
    "resume.safetensors",
    "split.json",
    "summary.json",
}


def train(cli, data: Path, out: Path, *options: object) -> Path:
    """Train on ``data`` and return the run folder."""
    code, printed, err = cli("train", data, *QUICK, "--out", out, *options)
    assert (code, err) == (0, "")
    return run_of(printed)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def results(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((run / "results.csv").read_text())))


def as_csv(folder: Path, one_hot: bool) -> Path:
    rows = [["image", *CLASSES] if one_hot else ["image", "labels"]]
    for row in range(24):
        labels = labels_of(row)
        cells = [int(c in labels) for c in CLASSES] if one_hot else ["|".join(labels)]
        rows.append([f"{row}.jpg", *cells])
        write_image(folder / "pictures" / f"{row}.jpg", row)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def as_metadata(folder: Path, kind: str) -> Path:
    lines = []
    for row in range(24):
        write_image(folder / f"{row}.jpg", row)
        record = {"file_name": f"{row}.jpg", "labels": labels_of(row)}
        text = f"{row}.jpg,{';'.join(record['labels'])}" if kind == "csv" else json.dumps(record)
        lines.append(text)
    head = ["file_name,labels"] if kind == "csv" else []
    (folder / f"metadata.{kind}").write_text("\n".join(head + lines))
    return folder


def as_class_folders(folder: Path) -> Path:
    for row in range(24):
        for label in labels_of(row):
            write_image(folder / label / f"{row}.jpg", row)
        if not labels_of(row):
            write_image(folder / f"{row}.jpg", row)
    return folder


FORMATS = {
    "one-hot CSV": lambda f: [as_csv(f, one_hot=True), "--images", f / "pictures"],
    "label CSV": lambda f: [as_csv(f, one_hot=False), "--images", f / "pictures"],
    "metadata.csv": lambda f: [as_metadata(f, "csv")],
    "metadata.jsonl": lambda f: [as_metadata(f, "jsonl")],
    "class folders": lambda f: [as_class_folders(f)],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_train_on_each_format(cli, tmp_path: Path, kind: str) -> None:
    (tmp_path / "data").mkdir()
    data, *options = FORMATS[kind](tmp_path / "data")
    run = train(cli, data, tmp_path / "runs", *options)
    assert {p.name for p in run.iterdir()} == FILES
    assert header(run)["class_names"] == list(CLASSES)


@pytest.mark.slow
def test_a_run_folder_is_full_and_true(cli, trained, tmp_path: Path) -> None:
    _, run = trained
    assert {p.name for p in run.iterdir()} == FILES
    rows = results(run)
    assert [row["epoch"] for row in rows] == [str(n) for n in range(1, 9)]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    with Image.open(run / "curves.png") as image:
        assert image.format == "PNG" and image.width > 1000
        assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs"] == 8 and summary["last"]["epoch"] == 8
    best = max(rows, key=lambda r: (float(r["val_micro_f1"]), -float(r["val_loss"])))
    assert summary["best"]["epoch"] == int(best["epoch"]) == header(run, "best")["epoch"]
    assert header(run)["epoch"] == 8
    parts = json.loads((run / "split.json").read_text())["parts"]
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(f"im{n}.jpg" for n in range(1, 49))
    environment = json.loads((run / "environment.json").read_text())
    assert environment["device"] == "cpu" and "torch" in environment["packages"]


@pytest.mark.slow
def test_a_second_run_gets_its_own_folder(cli, photos, tmp_path) -> None:
    names = [train(cli, photos, tmp_path / "runs", "--limit=12").name for _ in range(2)]
    assert names == ["photos-shufflenet_v2_x0_5", "photos-shufflenet_v2_x0_5-2"]


@pytest.mark.slow
def test_a_config_file_repeats_a_run_bit_by_bit(cli, photos, tmp_path) -> None:
    first = train(cli, photos, tmp_path / "a", "--seed=3", "--test=0.1", "--lr=0.03")
    code, out, err = cli("train", "--config", first / "config.toml", "--out", tmp_path / "b")
    assert (code, err) == (0, "")
    second = run_of(out)
    assert same(tensors(first), tensors(second))
    assert (first / "split.json").read_text() == (second / "split.json").read_text()


@pytest.mark.slow
def test_the_command_line_wins_over_the_file_over_the_default(cli, photos, tmp_path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('epochs = 2\nlr = 0.5\nloss = "mse"\n')
    run = train(cli, photos, tmp_path, "--config", file, "--lr=0.25", "--limit=16")
    text = (run / "config.toml").read_text()
    for line in ("epochs = 1", "lr = 0.25", 'loss = "mse"', "batch_size = 16", "seed = 0"):
        assert line in text.splitlines()


@pytest.mark.slow
def test_options_of_the_recipe_change_the_weights(cli, photos, tmp_path) -> None:
    base = ["--limit=24", "--amp=fp32", "--epochs=2", "--arch=shufflenet_v2_x0_5"]
    plain = tensors(train(cli, photos, tmp_path, *base))
    for number, change in enumerate(
        [
            ["--loss=mse"],
            ["--optimizer=adam"],
            ["--optimizer=rmsprop"],
            ["--schedule=constant"],
            ["--lr=0.02"],
            ["--momentum=0.8"],
            ["--momentum-min=0.5"],
            ["--epochs=1"],
            ["--weight-decay=0.1"],
            ["--batch-size=8"],
            ["--no-augment"],
            ["--seed=1"],
            ["--limit=16"],
            ["--amp=bf16"],
            ["--val=0.4"],
        ]
    ):
        changed = train(cli, photos, tmp_path / str(number), *base, *change)
        assert not same(tensors(changed), plain), change
    same_options = ["--augment", "--loss=bce", "--momentum=0.95", "--momentum-min=0.85"]
    assert same(tensors(train(cli, photos, tmp_path / "again", *base, *same_options)), plain)


@pytest.mark.slow
def test_amsgrad_differs_from_adam(cli, photos, tmp_path) -> None:
    # They part when a gradient's square has fallen: a few steps in.
    options = ["--arch=shufflenet_v2_x0_5", "--epochs=3", "--limit=24"]
    adam, amsgrad = (
        tensors(train(cli, photos, tmp_path / name, f"--optimizer={name}", *options))
        for name in ("adam", "amsgrad")
    )
    assert not same(adam, amsgrad)


@pytest.mark.slow
def test_the_schedule_stands_in_the_results(cli, photos, tmp_path) -> None:
    options = ["--arch=shufflenet_v2_x0_5", "--epochs=3", "--lr=0.02", "--limit=16"]
    constant = train(cli, photos, tmp_path / "a", *options, "--schedule=constant")
    assert [float(row["lr"]) for row in results(constant)] == [0.02] * 3
    onecycle = train(cli, photos, tmp_path / "b", *options)
    rates = [float(row["lr"]) for row in results(onecycle)]
    assert max(rates) <= 0.02 and rates[-1] == pytest.approx(1e-7)


@pytest.mark.slow
def test_size_amp_and_threads_stand_in_the_run(cli, photos, tmp_path) -> None:
    options = ["--size=48", "--amp=fp32", "--limit=12", "--device=cpu", "--threads=2"]
    run = train(cli, photos, tmp_path, *options)
    assert header(run)["size_px"] == 48
    environment = json.loads((run / "environment.json").read_text())
    assert (environment["amp"], environment["cpu_threads"]) == ("fp32", 2)


def test_simple_trains(cli, photos, tmp_path) -> None:
    run = train(cli, photos, tmp_path, "--arch=simple", "--limit=12", "--name=mine")
    assert run.name == "mine" and header(run)["arch"] == "simple"


def test_simple_is_tested_at_another_size_than_it_was_made_for(cli, photos, tmp_path) -> None:
    options = ("--arch=simple", "--limit=12", "--size=32", "--test-size=48")
    run = train(cli, photos, tmp_path, *options)
    assert header(run)["size_px"] == 48
    code, _, err = cli("eval", run)
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_split_files_are_used(cli, photos, tmp_path) -> None:
    file = tmp_path / "split.json"
    code, out, err = cli("data", "split", photos, "--val=0.4", "--test=0.2", "--out", file)
    assert (code, err) == (0, "") and str(file) in out
    run = train(cli, photos, tmp_path, "--split", file)
    assert json.loads((run / "split.json").read_text()) == json.loads(file.read_text())
    limited = train(cli, photos, tmp_path, "--split", file, "--limit=20")
    parts = json.loads((limited / "split.json").read_text())["parts"]
    assert 18 <= sum(map(len, parts.values())) <= 22
    whole = json.loads(file.read_text())["parts"]
    assert all(set(parts[name]) <= set(whole[name]) for name in parts)


@pytest.mark.slow
def test_a_frozen_backbone_keeps_the_weights_of_the_file(cli, trained, tmp_path) -> None:
    data, run = trained
    start = tensors(run)
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(start, file)
    options = ["--arch=resnet18", "--weights", file]
    frozen = train(cli, data, tmp_path, *options, "--freeze-backbone")
    free = train(cli, data, tmp_path, *options)
    moved = {k for k, v in tensors(frozen).items() if not torch.equal(v, start[k])}
    assert moved == {"fc.weight", "fc.bias"}
    assert not torch.equal(tensors(free)["conv1.weight"], start["conv1.weight"])
