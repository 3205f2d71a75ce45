"""The real commands on small data: what they print, what they leave behind, what options do."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from sklearn import metrics as reference
from small_set import CLASSES, labels_of, write_image

from grigri_fast import __version__
from grigri_fast.data import dataset
from grigri_fast.runs import checkpoint, sealed_file

SMALL = [
    "--arch=resnet18",
    "--weights=none",
    "--recipe=report",
    "--size=32",
    "--epochs=1",
    "--batch-size=16",
]
SMALL += ["--threads=1"]  # for the commands that run in a process of their own
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


def run_of(out: str) -> Path:
    """Return the run folder that train says it wrote."""
    line = next(line for line in out.splitlines() if line.startswith("run folder "))
    return Path(line.removeprefix("run folder "))


def train(cli, data: Path, out: Path, *options: object) -> Path:
    """Train on ``data`` and return the run folder."""
    code, printed, err = cli("train", data, *SMALL, "--out", out, *options)
    assert (code, err) == (0, "")
    return run_of(printed)


def tensors(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / f"{name}.safetensors")


def header(run: Path, name: str = "last") -> dict:
    with safe_open(run / f"{name}.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["grigri-fast"])


def rewrite(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write a checkpoint with other weights and all else as it was."""
    fields = sealed_file.read(path, checkpoint.FORMAT)[1]
    sealed_file.write(path, state, fields, checkpoint.FORMAT)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def results(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((run / "results.csv").read_text())))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos_once: Path) -> tuple[Path, Path]:
    """Return (data, run): a run on 48 images that has learned something."""
    data, folder = photos_once, tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "grigri_fast", "train", data, *SMALL, "--test=0.2"]
    command += ["--epochs=8", "--lr=0.05", "--no-augment", "--out", folder / "runs"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return data, run_of(done.stdout)


@pytest.fixture
def run(trained, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may change."""
    return Path(shutil.copytree(trained[1], tmp_path / "run"))


# ------------------------------------------------------------------------------------- train


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


@pytest.mark.parametrize("kind", FORMATS)
def test_train_on_each_format(cli, tmp_path: Path, kind: str) -> None:
    (tmp_path / "data").mkdir()
    data, *options = FORMATS[kind](tmp_path / "data")
    run = train(cli, data, tmp_path / "runs", *options)
    assert {p.name for p in run.iterdir()} == FILES
    assert header(run)["class_names"] == list(CLASSES)


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


def test_a_second_run_gets_its_own_folder(cli, photos, tmp_path) -> None:
    names = [train(cli, photos, tmp_path / "runs", "--limit=12").name for _ in range(2)]
    assert names == ["photos-resnet18", "photos-resnet18-2"]


def test_a_config_file_repeats_a_run_bit_by_bit(cli, photos, tmp_path) -> None:
    first = train(cli, photos, tmp_path / "a", "--seed=3", "--test=0.1", "--lr=0.03")
    code, out, err = cli("train", "--config", first / "config.toml", "--out", tmp_path / "b")
    assert (code, err) == (0, "")
    second = run_of(out)
    assert same(tensors(first), tensors(second))
    assert (first / "split.json").read_text() == (second / "split.json").read_text()


def test_the_command_line_wins_over_the_file_over_the_default(cli, photos, tmp_path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('epochs = 2\nlr = 0.5\nloss = "mse"\n')
    run = train(cli, photos, tmp_path, "--config", file, "--lr=0.25", "--limit=16")
    text = (run / "config.toml").read_text()
    for line in ("epochs = 1", "lr = 0.25", 'loss = "mse"', "batch_size = 16", "seed = 0"):
        assert line in text.splitlines()


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


def test_amsgrad_differs_from_adam(cli, photos, tmp_path) -> None:
    # They part when a gradient's square has fallen: a few steps in.
    options = ["--arch=shufflenet_v2_x0_5", "--epochs=3", "--limit=24"]
    adam, amsgrad = (
        tensors(train(cli, photos, tmp_path / name, f"--optimizer={name}", *options))
        for name in ("adam", "amsgrad")
    )
    assert not same(adam, amsgrad)


def test_the_schedule_stands_in_the_results(cli, photos, tmp_path) -> None:
    options = ["--arch=shufflenet_v2_x0_5", "--epochs=3", "--lr=0.02", "--limit=16"]
    constant = train(cli, photos, tmp_path / "a", *options, "--schedule=constant")
    assert [float(row["lr"]) for row in results(constant)] == [0.02] * 3
    onecycle = train(cli, photos, tmp_path / "b", *options)
    rates = [float(row["lr"]) for row in results(onecycle)]
    assert max(rates) <= 0.02 and rates[-1] == pytest.approx(1e-7)


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


def test_a_frozen_backbone_keeps_the_weights_of_the_file(cli, trained, tmp_path) -> None:
    data, run = trained
    start = tensors(run)
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(start, file)
    frozen = train(cli, data, tmp_path, "--weights", file, "--freeze-backbone")
    free = train(cli, data, tmp_path, "--weights", file)
    moved = {k for k, v in tensors(frozen).items() if not torch.equal(v, start[k])}
    assert moved == {"fc.weight", "fc.bias"}
    assert not torch.equal(tensors(free)["conv1.weight"], start["conv1.weight"])


# -------------------------------------------------------------------------------------- eval


def evaluate(cli, *args: object) -> dict:
    code, out, err = cli("eval", *args, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)  # one object and nothing else


@pytest.mark.parametrize("threshold", ["auto", "per-class", "0.3"])
def test_eval_equals_scikit_learn_on_predicts_probabilities(
    cli, trained, run, tmp_path, threshold: str
) -> None:
    data, _ = trained
    scored = evaluate(cli, run, "--threshold", threshold, "--save")
    assert header(run)["thresholds"] == scored["thresholds"]
    assert same(tensors(run), tensors(trained[1]))

    names = json.loads((run / "split.json").read_text())["parts"]["val"]
    out = tmp_path / "p.json"
    files = [data / "images" / name for name in names]
    assert cli("predict", run, *files, "--out", out)[0] == 0
    predictions = json.loads(out.read_text())
    loaded = dataset.load(data)
    true = loaded.targets_NC[[loaded.names.index(name) for name in names]]
    p = np.array([[x["probabilities"][c] for c in CLASSES] for x in predictions])
    given = np.array([[c in x["labels"] for c in CLASSES] for x in predictions])

    assert (given == (p >= np.broadcast_to(scored["thresholds"], 3))).all()
    assert scored["num_images"] == len(names)
    tuned = {"auto": "tuned on the same images", "per-class": "tuned on the same images"}
    for name, predicted in (("at 0.5", p >= 0.5), (tuned.get(threshold, "at 0.3"), given)):
        s = scored["scores"][name]
        options = {"zero_division": 0}
        for key, expected in {
            "micro_f1": reference.f1_score(true, predicted, average="micro", **options),
            "macro_f1": reference.f1_score(true, predicted, average="macro", **options),
            "subset_accuracy": reference.accuracy_score(true, predicted),
            "mAP": reference.average_precision_score(true, p, average="macro"),
        }.items():
            assert s[key]["value"] == pytest.approx(expected, abs=1e-9), (name, key)
            assert s[key]["low"] <= s[key]["value"] <= s[key]["high"]
    assert [c["support"] for c in scored["per_class"]] == true.sum(0).tolist()
    assert ("cross-fitted" in scored["scores"]) == (threshold != "0.3")


def test_eval_prints_scores_side_by_side_and_a_table_per_class(cli, trained) -> None:
    code, out, err = cli("eval", trained[1])
    assert (code, err) == (0, "")
    for text in (
        "at 0.5",
        "tuned here",
        "(flatters)",
        "cross-fitted",
        "(honest)",
        "micro-F1",
        "mAP",
    ):
        assert text in out
    assert "not stored; --save stores it" in out
    for name in CLASSES:
        assert any(line.startswith(name) for line in out.splitlines())


def test_looks_at_the_test_part_are_counted(cli, trained) -> None:
    _, run = trained
    (run / "test-looks.csv").unlink(missing_ok=True)
    for words, looks in (("--part=val", 0), ("--part=test", 1), ("--part=test", 2)):
        assert evaluate(cli, run, words)["test_looks"] == looks
    code, out, err = cli("eval", run, "--part=test", "--checkpoint=best", "--threshold=0.4")
    assert (code, err) == (0, "") and "the test part has been scored 3 times" in out
    rows = list(csv.DictReader((run / "test-looks.csv").open(newline="")))
    assert [(row["checkpoint"], row["threshold"]) for row in rows] == [
        *[("last", "auto")] * 2,
        ("best", "0.4"),
    ]


def test_eval_of_parts_and_checkpoints(cli, trained) -> None:
    _, run = trained
    parts = json.loads((run / "split.json").read_text())["parts"]
    for part, names in parts.items():
        assert evaluate(cli, run, "--part", part)["num_images"] == len(names)
    best = evaluate(cli, run, "--checkpoint", "best")
    assert best["epoch"] == json.loads((run / "summary.json").read_text())["best"]["epoch"]
    assert best["scores"]["at 0.5"]["micro_f1"]["value"] == pytest.approx(
        header(run, "best")["scores"]["micro_f1"], abs=0.05
    )


def test_eval_of_other_data(cli, trained, tmp_path) -> None:
    data, run = trained
    # The same images in a CSV whose columns stand in another order score the same.
    loaded = dataset.load(data)
    order = [2, 0, 1]
    lines = [",".join(["image", *(CLASSES[c] for c in order)])]
    for name, row in zip(loaded.names, loaded.targets_NC.astype(int), strict=True):
        lines.append(",".join([name, *(str(row[c]) for c in order)]))
    (tmp_path / "other.csv").write_text("\n".join(lines))
    permuted = evaluate(cli, run, "--data", tmp_path / "other.csv", "--images", data / "images")
    plain = evaluate(cli, run, "--data", data)
    assert plain["num_images"] == 48
    assert permuted["scores"] == plain["scores"]
    # A class that nobody has here is allowed, and has no AP.
    (tmp_path / "few.csv").write_text("image,labels\nim2.jpg,cat\nim1.jpg,\n")
    few = evaluate(cli, run, "--data", tmp_path / "few.csv", "--images", data / "images")
    by_name = {c["name"]: c for c in few["per_class"]}
    assert by_name["dog"]["support"] == 0 and by_name["dog"]["average_precision"] is None


# ----------------------------------------------------------------------------------- predict


def test_predict_writes_csv_and_json_that_agree(cli, trained, tmp_path) -> None:
    data, run = trained
    for name in ("p.csv", "p.json"):
        code, out, err = cli("predict", run, data / "images", "--out", tmp_path / name)
        assert (code, err) == (0, "") and "48 images" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    objects = json.loads((tmp_path / "p.json").read_text())
    assert [r["image"] for r in rows] == [o["image"] for o in objects]
    assert [r["labels"].split("|") if r["labels"] else [] for r in rows] == [
        o["labels"] for o in objects
    ]
    for row, one in zip(rows, objects, strict=True):
        for name in CLASSES:
            assert float(row[f"p({name})"]) == pytest.approx(one["probabilities"][name], abs=1e-6)
            assert (one["probabilities"][name] >= 0.5) == (name in one["labels"])


def test_predict_in_a_pipe_is_csv_in_the_order_of_the_paths(cli, trained) -> None:
    data, run = trained
    files = [data / "images" / f"im{n}.jpg" for n in (30, 4, 17)]
    code, out, _ = cli("predict", run, *files)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [r["image"] for r in rows] == list(map(str, files))
    # What is predicted for an image does not depend on its company.
    (alone,) = csv.DictReader(io.StringIO(cli("predict", run, files[1])[1]))
    for name in CLASSES:
        assert float(alone[f"p({name})"]) == pytest.approx(float(rows[1][f"p({name})"]), abs=0.02)


def test_predict_takes_files_folders_and_globs(cli, trained, tmp_path) -> None:
    data, run = trained
    for args, count in (
        ([data / "images"], 48),
        ([data], 48),  # searched to the bottom
        ([f"{data}/images/im1?.jpg"], 10),
        ([data / "images" / "im1.jpg", f"{data}/images/im[12].jpg"], 2),
    ):
        _, out, _ = cli("predict", run, *args)
        assert len(out.splitlines()) == count + 1


def test_predict_reports_a_bad_file_and_labels_the_others(cli, trained, tmp_path) -> None:
    data, run = trained
    folder = Path(shutil.copytree(data / "images", tmp_path / "images"))
    (folder / "im5.jpg").write_bytes((folder / "im5.jpg").read_bytes()[:300])
    (folder / "im6.jpg").write_text("no picture")
    code, out, err = cli("predict", run, folder)
    rows = {Path(r["image"]).name: r for r in csv.DictReader(io.StringIO(out))}
    assert code == 1 and err.count("\n") == 1 and "im5.jpg" in err and "1 more" in err
    assert [name for name, row in rows.items() if row["error"]] == ["im5.jpg", "im6.jpg"]
    good = {Path(r["image"]).name: r for r in _predicted(cli, run, data / "images")}
    for name, row in rows.items():
        if not row["error"]:
            assert row["labels"] == good[name]["labels"]


def _predicted(cli, run: Path, folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(cli("predict", run, folder)[1])))


def test_only_bad_files(cli, trained, tmp_path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    code, out, _ = cli("predict", trained[1], tmp_path)
    assert code == 1 and "not a JPEG" in out


# -------------------------------------------------------------------------------------- data


def test_data_check_counts(cli, photos) -> None:
    shutil.copy(photos / "images" / "im3.jpg", photos / "images" / "im100.jpg")
    Image.new("L", (20, 10)).save(photos / "images" / "im101.jpg")
    code, out, err = cli("data", "check", photos)
    assert (code, err) == (0, "")
    lines = {line[:25].strip(): line[25:].strip() for line in out.splitlines()}
    assert lines["images"] == "50" and lines["classes"] == "3"
    assert lines["images without label"] == "26 (52.00%)"
    assert lines["grayscale"] == "1" and lines["exact duplicates"] == "1"
    assert lines["sizes"] == "40x32 px (49), 20x10 px (1)"
    assert "im100.jpg = " in out or "= " + str(photos / "images" / "im100.jpg") in out
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:3] in CLASSES}
    for name in CLASSES:
        count = sum(name in labels_of(row) for row in range(48))
        assert table[name] == [str(count), f"{count / 50:.2%}"]


def test_data_check_names_every_file_that_cannot_be_used(cli, photos) -> None:
    (photos / "images" / "im7.jpg").write_bytes(b"")
    (photos / "images" / "im9.jpg").write_text("hello")
    code, out, err = cli("data", "check", photos)
    assert code == 1 and err == "error: 2 of 48 files cannot be used\n"
    assert f"{photos / 'images' / 'im7.jpg'}: empty file" in out
    assert f"{photos / 'images' / 'im9.jpg'}: not a JPEG" in out


def test_data_split_prints_the_reports_figures(cli, grigri, tmp_path) -> None:
    code, out, err = cli("data", "split", grigri / "labels_20000.csv", "--val", "0.2")
    assert (code, err) == (0, "")
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert table["images"] == ["16000", "4000"]
    assert table["baby"] == ["0.0046875", "0.005"]
    assert table["people"] == ["0.320125", "0.32025"]
    assert table["tree"] == ["0.02625", "0.02625"]
    assert cli("data", "split", grigri / "labels_20000.csv", "--val", "0.2")[1] == out


def test_data_split_shows_the_parts_side_by_side(cli, photos) -> None:
    _, out, _ = cli("data", "split", photos, "--val=0.25", "--test=0.25", "--seed=1")
    assert ["class", "train", "val", "test"] in [line.split() for line in out.splitlines()]
    assert ["images", "24", "12", "12"] in [line.split() for line in out.splitlines()]


# ------------------------------------------------------------------------------- the command


def command(*args: object, **options) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "grigri_fast", *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, **options)


def test_version(cli) -> None:
    assert cli("--version") == (0, f"grigri-fast {__version__}\n", "")
    assert command("--version").stdout == f"grigri-fast {__version__}\n"


def test_a_closed_pipe_is_no_traceback(trained) -> None:
    data, run = trained
    line = f"{sys.executable} -m grigri_fast predict {run} {data} | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.startswith("image,labels,error") and "Traceback" not in done.stderr


def test_ctrl_c_leaves_a_run_that_can_be_used(cli, photos, tmp_path) -> None:
    words = [sys.executable, "-u", "-m", "grigri_fast", "train", photos, *SMALL]
    words += ["--epochs=500", "--compile=off", "--out", tmp_path]
    process = subprocess.Popen(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.strip().startswith("1/500"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    run = tmp_path / "photos-resnet18"
    line = f"interrupted; go on with: grigri-fast train --resume {run}\n"
    assert (process.returncode, err) == (130, line)
    assert {p.name for p in run.iterdir() if p.suffix == ".safetensors"} == {
        "best.safetensors",
        "last.safetensors",
        "resume-previous.safetensors",
        "resume.safetensors",
    }
    assert cli("eval", run)[0] == 0


# --------------------------------------------------------------------------- one by one


def probabilities(cli, run: Path, *args: object) -> dict[str, np.ndarray]:
    """Return what predict says in fp32, by path."""
    out = run / "probabilities.json"
    code, _, err = cli("predict", run, *args, "--amp=fp32", "--out", out)
    assert (code, err) == (0, "")
    found = json.loads(out.read_text())
    assert all(one["error"] is None for one in found)
    return {one["image"]: np.array([one["probabilities"][c] for c in CLASSES]) for one in found}


def logs(cli, run: Path, *args: object) -> dict[str, np.ndarray]:
    """Return the logarithms of what predict says: they tell images apart where a model is sure."""
    return {path: np.log(p) for path, p in probabilities(cli, run, *args).items()}


@pytest.mark.parametrize("count", [1, 32, 33, 47, 48])  # batches are of 32; of 33, the one joins
def test_eval_scores_every_image_once(cli, trained, run, tmp_path, count: int) -> None:
    data, _ = trained
    loaded = dataset.load(data)
    rows = [1, *(row for row in range(48) if row != 1)][:count]  # the first has a label
    lines = [f"{loaded.names[row]},{'|'.join(labels_of(row))}" for row in rows]
    (tmp_path / "some.csv").write_text("\n".join(["image,labels", *lines]))
    options = ["--data", tmp_path / "some.csv", "--images", data / "images", "--amp=fp32"]
    scored = evaluate(cli, run, *options, "--threshold=0.5")
    by_path = probabilities(cli, run, *(loaded.paths[row] for row in rows))
    given = np.array([by_path[str(loaded.paths[row])] for row in rows]) >= 0.5
    true = loaded.targets_NC[rows]
    assert scored["num_images"] == count == len(by_path)
    assert [c["support"] for c in scored["per_class"]] == true.sum(0).tolist()
    found = {key: value["value"] for key, value in scored["scores"]["at 0.5"].items()}
    f1 = reference.f1_score(true, given, average="micro", zero_division=0)
    assert found["micro_f1"] == pytest.approx(f1, abs=1e-9)
    assert found["subset_accuracy"] == pytest.approx((given == true).all(1).mean(), abs=1e-9)


def test_predictions_go_with_their_paths(cli, trained, run) -> None:
    data, _ = trained
    files = [data / "images" / f"im{n}.jpg" for n in range(1, 49)]
    together = logs(cli, run, *files)
    assert len({tuple(np.round(p, 2)) for p in together.values()}) > 40  # images can be told apart
    backwards = logs(cli, run, *reversed(files))
    assert list(together) == list(map(str, files)) and list(backwards) == list(together)[::-1]
    for path in files:
        assert backwards[str(path)] == pytest.approx(together[str(path)], abs=1e-2)
    for path in files[::12]:
        alone = logs(cli, run, path)
        assert alone[str(path)] == pytest.approx(together[str(path)], abs=1e-2)


def test_pictures_of_all_kinds_are_upright_rgb(cli, run, tmp_path) -> None:
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    pixels = np.full((32, 40, 3), (30, 220, 30), dtype=np.uint8)
    pixels[:10] = (30, 128, 250)
    image = Image.fromarray(pixels)
    image.save(folder / "a.png")
    same_as_a = ["a.bmp", "a.tif", "a.webp", "palette.png", "rgba.png", "CAPITALS.PNG"]
    image.save(folder / "a.bmp")
    image.save(folder / "a.tif")
    image.save(folder / "a.webp", lossless=True)
    image.quantize(8).save(folder / "palette.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.save(folder / "CAPITALS.PNG")
    gray = image.convert("L")
    gray.save(folder / "gray.png")
    gray.convert("RGB").save(folder / "gray-rgb.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn it by 90 degrees clockwise"
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "turned.jpg", exif=exif, quality=100, subsampling=0)
    image.save(folder / "upright.jpg", quality=100, subsampling=0)
    turned.save(folder / "lying.jpg", quality=100, subsampling=0)

    found = {Path(k).name: v for k, v in logs(cli, run, tmp_path / "deep").items()}
    assert len(found) == 12
    for name in same_as_a:
        assert found[name] == pytest.approx(found["a.png"], abs=1e-2), name
    assert found["gray.png"] == pytest.approx(found["gray-rgb.png"], abs=1e-2)
    assert found["gray.png"] != pytest.approx(found["a.png"], abs=1)
    assert found["turned.jpg"] == pytest.approx(found["upright.jpg"], abs=0.5)
    assert found["lying.jpg"] != pytest.approx(found["upright.jpg"], abs=2)


def test_bad_files_in_json(cli, trained, run, tmp_path) -> None:
    good = trained[0] / "images" / "im4.jpg"
    (tmp_path / "a.jpg").write_bytes(b"")
    out = tmp_path / "p.json"
    code, printed, err = cli("predict", run, tmp_path / "a.jpg", good, "--out", out)
    bad, fine = json.loads(out.read_text())
    assert code == 1 and "2 images" in printed and err.count("\n") == 1
    assert bad == {
        "image": str(tmp_path / "a.jpg"),
        "labels": [],
        "error": "empty file",
        "probabilities": {},
    }
    assert fine["error"] is None and set(fine["probabilities"]) == set(CLASSES)


def test_last_and_best_are_the_files_of_that_name(cli, trained, run) -> None:
    data, _ = trained
    state = tensors(run)
    state["fc.weight"] *= -1
    rewrite(run / "best.safetensors", state)
    options = [data / "images", "--out", run / "p.json"]
    labels = {}
    for name in ("last", "best"):
        scored = evaluate(cli, run, "--checkpoint", name)
        assert scored["checkpoint"] == str(run / f"{name}.safetensors")
        assert cli("predict", run, *options, "--checkpoint", name)[0] == 0
        labels[name] = (scored["scores"]["at 0.5"], (run / "p.json").read_text())
    assert labels["last"][0] != labels["best"][0] and labels["last"][1] != labels["best"][1]

    before = (run / "last.safetensors").read_bytes()
    evaluate(cli, run, "--checkpoint=best", "--threshold=0.25", "--save")
    assert header(run, "best")["thresholds"] == 0.25
    assert same(tensors(run, "best"), state)
    assert (run / "last.safetensors").read_bytes() == before


def test_eval_without_save_changes_nothing(cli, trained) -> None:
    _, run = trained
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    evaluate(cli, run, "--threshold=per-class", "--part=train")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_data_split_prints_every_figure_of_the_report(cli, grigri) -> None:
    _, out, _ = cli("data", "split", grigri / "labels_20000.csv")
    rows = [line.split() for line in out.splitlines() if len(line.split()) == 3]
    train, val = zip(*(row[1:] for row in rows if row[0] not in ("class", "images")), strict=True)
    assert " ".join(train) == (
        "0.0046875 0.018 0.0159375 0.05475 0.022375 0.161375 0.0380625 0.1489375 0.029875 "
        "0.320125 0.1560625 0.006 0.008625 0.02625"
    )
    assert " ".join(val) == (
        "0.005 0.018 0.016 0.05475 0.0225 0.16125 0.038 0.149 0.03 0.32025 0.156 0.006 "
        "0.00875 0.02625"
    )


@pytest.mark.parametrize("name", ["--help", "data split", "predict", "train"])
def test_a_reader_who_has_gone_is_no_traceback(trained, tmp_path, name: str) -> None:
    data, run = trained
    words = {
        "--help": ["--help"],
        "data split": ["data", "split", data],
        "predict": ["predict", run, data],
        "train": ["train", data, *SMALL, "--out", tmp_path],
    }[name]
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "grigri_fast", *map(str, words)]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""
