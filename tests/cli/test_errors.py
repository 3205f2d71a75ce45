"""Wrong input: one clear line on stderr, exit code 1 or 2, and nothing left behind."""

import json
import os
import shutil
import urllib.error
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from small_runs import QUICK
from small_set import write_image

from grigri_fast.cli.main import main
from grigri_fast.runs import checkpoint, sealed_file


@pytest.fixture
def refused(cli, tmp_path: Path, monkeypatch):
    """Run a command that must be refused; return its exit code and its one line on stderr."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    runs = tmp_path / "runs"

    def call(*args: object, says: str, code: int = 1) -> str:
        if args[0] == "train" and not any(str(a).startswith("--out") for a in args):
            args = (*args, "--out", runs)
        found, _, err = cli(*args)
        assert found == code, err
        assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
        assert says in err, err
        assert not runs.exists() or not list(runs.iterdir())
        return err

    return call


# ----------------------------------------------------------------------------- data layouts


def test_no_data(refused, tmp_path: Path) -> None:
    says = "no such file or folder; expected a folder per class"
    for command in (["train"], ["data", "check"], ["data", "split"]):
        refused(*command, tmp_path / "nowhere", says=says)
    (tmp_path / "empty").mkdir()
    refused("train", tmp_path / "empty", says="no images")


def test_no_labels(refused, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg", 0)
    refused("train", tmp_path / "photos", says="1 images but no labels")


def test_wrong_class_files(refused, photos: Path) -> None:
    (photos / "annotations" / "cat.txt").write_text("2\nim4.jpg\n")
    refused("train", photos, says="cat.txt line 2: expected an image number")
    (photos / "annotations" / "cat.txt").write_text("2\n77\n")
    refused("train", photos, says="cat.txt line 2: label without image")


def test_rows_without_an_image(refused, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", 0)
    lines = ["image,labels", "a.jpg,cat", *(f"{n}.jpg,dog" for n in range(9))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    refused(
        "train",
        tmp_path / "labels.csv",
        *QUICK,
        says="0.jpg: No such file or directory; say where the images are",
    )


def test_images_option_that_would_be_ignored(refused, photos: Path) -> None:
    says = "--images does not go with images/ + annotations/"
    refused("train", photos, "--images", photos, says=says, code=2)
    refused("eval", photos, "--images", photos, says="--images goes with --data")


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:600]),
    "text": lambda path: path.write_text("no picture"),
    "empty": lambda path: path.write_bytes(b""),
    "gif": lambda path: Image.new("RGB", (8, 8)).save(path, format="GIF"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_images_that_cannot_be_decoded(refused, photos: Path, how: str) -> None:
    DAMAGES[how](photos / "images" / "im9.jpg")
    says = f"{photos / 'images' / 'im9.jpg'}: "
    refused("train", photos, *QUICK, "--strict", says=says)
    refused("train", photos, *QUICK, "--max-bad=0.01", says=says)


# ---------------------------------------------------------------------------- option values


@pytest.mark.parametrize(
    "option, says",
    [
        ("--val=0", "--val must be more than 0"),
        ("--val=1", "--val must be more than 0 and less than 1"),
        ("--test=-0.1", "--test must be at least 0"),
        ("--limit=0", "--limit must be at least 1"),
        ("--size=0", "--size must be at least 1"),
        ("--epochs=-1", "--epochs must be at least 0"),
        ("--batch-size=1", "--batch-size must be at least 2"),
        ("--lr=0", "--lr must be more than 0"),
        ("--lr=nan", "--lr must be more than 0"),
        ("--momentum=1", "--momentum must be at least 0"),
        ("--momentum-min=-1", "--momentum-min must be at least 0"),
        ("--momentum-min=0.99", "is above --momentum"),
        ("--weight-decay=-1", "--weight-decay must be at least 0"),
        ("--seed=-1", "--seed must be from 0"),
        ("--threads=0", "--threads must be at least 1"),
        ("--name=a/b", "is not a folder name"),
        ("--arch=resnet19", "did you mean"),
        ("--weights=nowhere.pth", "--weights nowhere.pth: no such file"),
        ("--split=nowhere.json", "split file nowhere.json: No such file"),
        ("--config=nowhere.toml", "--config nowhere.toml: No such file"),
        ("--device=cuda", "no usable CUDA GPU"),
        ("--amp=fp16", "--amp fp16 is for GPUs"),
    ],
)
def test_values_out_of_range(refused, photos: Path, option: str, says: str) -> None:
    if option == "--device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    refused("train", photos, *QUICK, "--device=cpu", option, says=says)


@pytest.mark.parametrize(
    "option", ["--loss=hinge", "--optimizer=lion", "--schedule=cosine", "--device=tpu", "--amp=8"]
)
def test_choices(refused, photos: Path, option: str) -> None:
    refused("train", photos, option, says=f"'{option.split('=')[1]}' is not one of", code=2)


@pytest.mark.parametrize("option", ["--epochs=many", "--lr=fast", "--seed=1.5", "--size="])
def test_values_of_another_type(refused, photos: Path, option: str) -> None:
    refused("train", photos, option, says=f"Invalid value for '{option.split('=')[0]}'", code=2)


def test_contradictions(refused, photos: Path, tmp_path: Path) -> None:
    split = tmp_path / "s.json"
    assert main(["data", "split", str(photos), "--out", str(split)]) == 0
    refused("train", photos, "--split", split, "--val=0.2", says="leave --val/--test out")
    refused("train", photos, "--val=0.6", "--test=0.5", says="leave nothing to train on")
    refused("train", photos, "--schedule=constant", "--momentum-min=0.8", says="only works with")


def test_unknown_words(refused, photos: Path) -> None:
    refused("trian", says="No such command 'trian'. Did you mean 'train'?", code=2)
    refused("train", photos, "--epoch=3", says="No such option: --epoch", code=2)
    refused("train", photos, "more", says="unexpected extra argument", code=2)
    refused("eval", says="Missing argument 'RUN'", code=2)
    refused("predict", "runs/x", says="Missing argument 'PATH...'", code=2)


@pytest.mark.parametrize(
    "text, says",
    [
        ("epoch = 3", "unknown key 'epoch'; the keys are data"),
        ("epochs = '3'", "--epochs takes a value of type int"),
        ("epochs = 3\nepochs = 4", "not valid TOML"),
        ("loss = 'hinge'", "--loss must be one of bce, mse"),
    ],
)
def test_config_files(refused, photos: Path, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    refused("train", photos, "--config", tmp_path / "c.toml", says=says)


# ------------------------------------------------------------------------ where it is written


def test_an_output_that_cannot_be_written(refused, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused("train", photos, *QUICK, "--out", tmp_path / "file", says="cannot make a run folder")
    split = tmp_path / "nowhere" / "s.json"
    refused("data", "split", photos, "--out", split, says="s.json: cannot be written")
    assert (tmp_path / "file").read_text() == "in the way"


def test_no_network_for_weights(refused, photos: Path, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    says = "fetch https://download.pytorch.org/models/resnet34-"
    line = refused("train", photos, "--arch=resnet34", says=says)
    assert "--weights none" in line and "put it at" in line


# -------------------------------------------------------------------------- eval and predict


def test_folders_that_are_no_runs(refused, photos: Path, tmp_path: Path) -> None:
    for command in (["eval"], ["predict"]):
        more = [photos] if command == ["predict"] else []
        refused(*command, tmp_path / "nowhere", *more, says="no such run folder")
        refused(*command, photos, *more, says="not a run folder (it has no config.toml)")


@pytest.fixture(scope="module")
def trained(photos_once: Path, tmp_path_factory) -> Path:
    """Return a run that no test changes."""
    out = tmp_path_factory.mktemp("trained")
    options = [*QUICK, "--limit=16", "--threads=1", "--out", out]
    assert main(list(map(str, ["train", photos_once, *options]))) == 0
    return out / "photos-shufflenet_v2_x0_5"


@pytest.fixture
def run(trained: Path, photos_once: Path, photos: Path, tmp_path: Path) -> Path:
    """Return a copy on data of its own; it lies outside of what ``refused`` watches."""
    folder = Path(shutil.copytree(trained, tmp_path / "good" / trained.name))
    config = (folder / "config.toml").read_text()
    assert config.count(f'"{photos_once}"') == 1
    (folder / "config.toml").write_text(config.replace(f'"{photos_once}"', f'"{photos}"'))
    return folder


@pytest.mark.slow
def test_wrong_uses_of_a_run(refused, run: Path, photos: Path, tmp_path: Path) -> None:
    refused("eval", run, "--part=test", says="has no test part, only train, val")
    refused("eval", run, "--data", photos, "--part=test", says="has no test part, only train, val")
    refused("eval", run, "--threshold=2", says="is not auto, per-class or a number", code=2)
    refused("eval", run, "--threshold=nan", says="is not auto, per-class or a number", code=2)
    refused("predict", run, tmp_path / "x.jpg", says="x.jpg: no such file or folder")
    refused("predict", run, f"{photos}/*.png", says="*.png: no images")
    refused("predict", run, photos, "--out=labels.txt", says="ends in .csv or .json")
    out = tmp_path / "nowhere" / "p.csv"
    refused("predict", run, photos, "--out", out, says="there is no folder")

    other = tmp_path / "other.csv"
    other.write_text("image,labels\nim1.jpg,zebra\n")
    images = ["--images", photos / "images"]
    refused("eval", run, "--data", other, *images, says="does not know the class 'zebra'")


def test_data_that_has_changed_since(refused, run: Path, photos: Path) -> None:
    name = json.loads((run / "split.json").read_text())["parts"]["val"][0]
    number = int(name.removeprefix("im").removesuffix(".jpg"))
    (photos / "images" / name).unlink()
    for file in (photos / "annotations").glob("*.txt"):
        lines = [line for line in file.read_text().split("\n") if line != str(number)]
        file.write_text("\n".join(lines))
    refused("eval", run, says=f"{name} is in val, but not in")


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 64])
def test_damaged_checkpoints(refused, run: Path, photos: Path, content: bytes) -> None:
    (run / "last.safetensors").write_bytes(content)
    refused("eval", run, says="last.safetensors: damaged checkpoint")
    refused("predict", run, photos, says="last.safetensors: damaged checkpoint")
    (run / "last.safetensors").unlink()
    refused("eval", run, says="no such checkpoint")


# ------------------------------------------------------------------------------ more of each


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, says, code",
    [
        (["data", "split", "DATA", "--val=0"], "--val must be more than 0", 1),
        (["data", "split", "DATA", "--val=0.5", "--test=0.5"], "leave nothing to train on", 1),
        (["data", "split", "DATA", "--seed=-1"], "--seed must be from 0", 1),
        (["data", "split", "DATA", "--val=much"], "Invalid value for '--val'", 2),
        (["data", "split", "DATA", "--out=DATA"], "cannot be written: Is a directory", 1),
        (["data", "split", "DATA", "--images=DATA"], "--images does not go with", 2),
        (["data", "check", "DATA", "--threads=0"], "Invalid value for '--threads'", 2),
        (["data", "check", "DATA/images/im1.jpg"], "is a file but no .csv, .jsonl", 1),
        (["data", "check", "DATA/images"], "48 images but no labels", 1),
        (["data", "chekc", "DATA"], "Did you mean 'check'?", 2),
        (["eval", "RUN", "--checkpoint=first"], "'first' is not one of", 2),
        (["eval", "RUN", "--part=dev"], "'dev' is not one of", 2),
        (["eval", "RUN", "--threshold=-0.1"], "is not auto, per-class or a number", 2),
        (["eval", "RUN", "--threads=0"], "Invalid value for '--threads'", 2),
        (["eval", "RUN", "--data=DATA/nowhere", "--json"], "no such file or folder", 1),
        (["eval", "RUN", "--amp=fp16", "--device=cpu"], "--amp fp16 is for GPUs", 1),
        (["predict", "RUN", "DATA", "--threads=x"], "Invalid value for '--threads'", 2),
        (["predict", "RUN", "DATA/annotations"], "annotations: no images", 1),
        (["predict", "RUN", "DATA", "--out=DATA/annotations/cat.txt"], "ends in .csv or .json", 1),
        (["train", "DATA", "--name=.."], "is not a folder name", 1),
        (["train", "DATA", "--name="], "is not a folder name", 1),
        (["train", "DATA", "--out="], "--out must not be empty", 1),
        (["train", "DATA/nowhere.csv"], "no such file or folder", 1),
        (["train", "DATA", "--config=DATA"], "not a regular file", 1),
        (["train", "DATA", "--split=DATA/annotations/cat.txt"], "not written by `data split", 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_more_wrong_words(
    refused, cli, run: Path, photos: Path, arguments: list, says: str, code: int
) -> None:
    before = sorted(p for p in photos.rglob("*") if p.is_file())
    words = [a.replace("DATA", str(photos)).replace("RUN", str(run)) for a in arguments]
    refused(*words, says=says, code=code)
    if arguments[0] != "train":
        assert cli(*words)[1] == ""
    assert sorted(p for p in photos.rglob("*") if p.is_file()) == before


@pytest.mark.parametrize("arch, size", [("simple", 15), ("densenet121", 16), ("vit_b_16", 30)])
def test_sizes_that_a_network_cannot_take(
    refused, photos: Path, recwarn, arch: str, size: int
) -> None:
    options = [*QUICK, f"--arch={arch}", f"--size={size}"]
    refused("train", photos, *options, says=f"--arch {arch} cannot take --size {size}")
    assert not recwarn.list  # outside of pytest, a warning is more lines on stderr


@pytest.mark.parametrize("content", ["text", "model", "cut"])
def test_weights_that_are_none(refused, photos: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "w.pth"
    if content == "text":
        file.write_text("no weights")
    else:
        torch.save(torch.nn.Linear(2, 2), file)
    if content == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    line = refused("train", photos, *QUICK, "--weights", file, says=f"--weights {file}: ")
    assert line.removesuffix("\n").isprintable()  # no colours of torch's


def test_truncated_checkpoints(refused, run: Path, photos: Path) -> None:
    content = (run / "last.safetensors").read_bytes()
    for length in (4, 100, len(content) // 2, len(content) - 1):
        (run / "last.safetensors").write_bytes(content[:length])
        refused("eval", run, "--json", says="last.safetensors: damaged checkpoint")
        refused("predict", run, photos, says="last.safetensors: damaged checkpoint")


def test_checkpoints_of_something_else(refused, run: Path, photos: Path) -> None:
    path = run / "last.safetensors"
    state, fields = sealed_file.read(path, checkpoint.FORMAT)
    safetensors.torch.save_file(state, path)
    refused("predict", run, photos, says="damaged checkpoint, or none of grigri-fast")
    sealed_file.write(path, state, fields, "something else")
    refused("predict", run, photos, says="not a file of this kind")
    del state["fc.bias"]
    sealed_file.write(path, state, fields, checkpoint.FORMAT)
    refused("predict", run, photos, says="the weights do not fit shufflenet_v2_x0_5")


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "config.toml"),
        ("data = 3", "data"),
        ("data = [", "config.toml: not valid TOML"),
        ('data = "/nowhere"', "/nowhere: no such file or folder"),
    ],
)
def test_a_damaged_config_in_a_run(refused, run: Path, text: str, says: str) -> None:
    (run / "config.toml").write_text(text)
    refused("eval", run, says=says)


@pytest.mark.parametrize("text", [None, "", "[]", '{"parts": {"train": ["im1.jpg"]}}'])
def test_a_damaged_split_in_a_run(refused, run: Path, text: str | None) -> None:
    (run / "split.json").unlink()
    if text is not None:
        (run / "split.json").write_text(text)
    refused("eval", run, says="split.json: ")


@pytest.mark.parametrize(
    "text, says",
    [
        (b"augment = 1", "--augment takes a value of type bool"),
        (b"size = 32.0", "--size takes a value of type int"),
        (b"lr = -1", "--lr must be more than 0"),
        (b"[train]\nepochs = 3", "unknown key 'train'"),
        (b'name = "a\\u0000b"', "--name"),
        (b'val = 0.2\nsplit = "s.json"', "leave --val/--test out"),
        (b"momentum_min = 0.5\nschedule = 'constant'", "--momentum-min only works"),
        (b"seed = \xff", "not UTF-8 text"),
    ],
)
def test_more_config_files(refused, photos: Path, tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "c.toml").write_bytes(text)
    refused("train", photos, "--config", tmp_path / "c.toml", says=says)


def test_no_folder_has_such_a_name(cli, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('out = "a\\u0000b"')  # NUL
    code, _, err = cli("train", photos, *QUICK, "--config", tmp_path / "c.toml")
    assert code == 1 and "--out" in err and err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(refused, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    refused("train", photos, *QUICK, "--out", tmp_path / "locked", says="Permission denied")
