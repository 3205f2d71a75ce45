"""A run as a folder of the hub: timm and torchvision load it, and nothing is half written."""

import io
import json
import os
import re
import signal
from contextlib import redirect_stdout
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors
import timm
import torch
from exported_runs import CPU, make_run, pixels, predicted
from small_runs import fit, header, start, tensors
from small_set import CLASSES

from grigri_fast.data import dataset
from grigri_fast.inference import hub_folder, model_card
from grigri_fast.inference.model_card import Begun, Card
from grigri_fast.models import factory, normalize, timm_networks
from grigri_fast.runs import checkpoint, run_folder
from grigri_fast.runs.checkpoint import ModelInfo

NAMES = {"config.json", "model.safetensors", "README.md"}


def whole(folder: Path) -> dict[str, bytes]:
    """Return the files beside and in an exported folder, hidden ones too."""
    beside = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
    assert beside == [folder.name], "something was left behind"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def exported(cli, folder: Path, photos: Path, arch: str, size_px: int) -> tuple[Path, str]:
    """Make and export a run; return the folder, and what was printed."""
    run = make_run(folder / "run", photos, arch, size_px)
    checkpoint.set_thresholds(run / run_folder.LAST, [0.3, 0.5, 0.65], "by hand")
    code, printed, err = cli("export", run, "--format=hub", "--threads=1")
    assert (code, err) == (0, "")
    return run / "hub", printed


def labels_by_the_card(folder: Path, photo: Path, monkeypatch) -> str:
    """Run the program in the card of a folder; return what it prints."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "grigri_fast" not in program
    printed = io.StringIO()
    with monkeypatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        patch.setattr("sys.argv", ["label.py", str(photo)])
        exec(program, {})
    return printed.getvalue().strip()


@pytest.mark.parametrize(
    ("arch", "size_px"), [("timm/test_resnet", 64), ("timm/test_vit", 96), ("resnet18", 32)]
)
def test_timm_loads_the_folder_and_computes_the_same(
    cli, photos_once: Path, tmp_path: Path, monkeypatch, arch: str, size_px: int
) -> None:
    folder, printed = exported(cli, tmp_path, photos_once, arch, size_px)
    assert f"checked: timm {timm.__version__} and PyTorch differ by" in printed
    assert set(whole(folder)) == NAMES
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    model, info = checkpoint.load(folder.parent / run_folder.LAST, CPU)
    paths = dataset.load(str(photos_once)).paths
    inputs_NCHW = normalize.normalize(pixels(paths, size_px), info.mean, info.std)
    with torch.inference_mode():
        expected_NC = model(inputs_NCHW)
    assert np.ptp(expected_NC.numpy(), axis=0).min() > 1  # so that a mistake would be seen

    # The same folder as the hub's client leaves it after a download.
    cache = tmp_path / "cache" / "models--me--photos"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / ("0" * 40)).symlink_to(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in (f"local-dir:{folder}", "hf-hub:me/photos"):
        loaded = timm.create_model(name, pretrained=True, cache_dir=tmp_path / "cache").eval()
        with torch.inference_mode():
            torch.testing.assert_close(loaded(inputs_NCHW), expected_NC, rtol=1e-4, atol=1e-4)
        told = loaded.pretrained_cfg
        assert list(told["label_names"]) == list(CLASSES)
        data = timm.data.resolve_model_data_config(loaded)
        assert data["input_size"] == (3, size_px, size_px)
        assert (tuple(data["mean"]), tuple(data["std"])) == (info.mean, info.std)
        assert (data["crop_mode"], data["crop_pct"]) == ("squash", 1.0)
        assert data["interpolation"] == "bilinear"
    # Its weights are none of timm's: no licence, tag or paper of those is named.
    assert not told.get("license") and not told.get("tag") and not told.get("paper_ids")


@pytest.mark.parametrize("arch", ["timm/test_resnet", "shufflenet_v2_x0_5"])
def test_the_cards_program_labels_photographs_as_predict_does(
    cli, photos_once: Path, tmp_path: Path, monkeypatch, arch: str
) -> None:
    folder, printed = exported(cli, tmp_path, photos_once, arch, 64)
    library = arch.partition("/")[0] if "/" in arch else "torchvision"
    assert f"checked: {library} " in printed
    photos = dataset.load(str(photos_once)).paths[:12]
    expected = [p["labels"] for p in predicted(cli, folder.parent, *photos, "--amp=fp32")]
    assert len({tuple(some) for some in expected}) > 2
    found = [labels_by_the_card(folder, photo, monkeypatch) for photo in photos]
    assert found == [", ".join(some) for some in expected]
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(tensors(folder.parent))
    text = b"".join(whole(folder).values())
    assert str(tmp_path).encode() not in text and photos_once.name.encode() not in text
    head = huggingface_hub.metadata_load(folder / "README.md")
    assert head["library_name"] == library and head["pipeline_tag"] == "image-classification"
    assert "multi-label" in head["tags"] and "license" not in head


@pytest.mark.slow
def test_from_a_training_to_a_folder_and_back(cli, photos_once: Path, tmp_path: Path) -> None:
    tiny = ["--epochs=1", "--batch-size=16", "--amp=fp32", "--threads=1", "--size=64"]
    arch = "timm/test_resnet"
    run = fit(cli, photos_once, tmp_path / "a", *tiny, f"--arch={arch}", "--weights=none")
    assert cli("eval", run, "--threshold=per-class", "--save", "--threads=1")[0] == 0
    out = tmp_path / "shared"
    assert cli("export", run, "--format=hub", "--out", out, "--threads=1")[0] == 0
    card, summary = (out / "README.md").read_text(), json.loads((run / "summary.json").read_text())
    way = summary["validation"]["scores"]["cross-fitted"]["micro_f1"]
    assert "{value:.4f} ({low:.4f} to {high:.4f})".format(**way) in card
    assert "Of these 38 for training, 10 for validation." in card
    assert "best F1 of each class" in card and f"| {CLASSES[1]} | " in card
    text = b"".join(path.read_bytes() for path in out.iterdir())
    assert bytes(tmp_path) not in text and bytes(photos_once) not in text
    # The folder says the network, size and preprocessing; three other classes get a new head.
    code, printed, err = cli(
        *("train", photos_once, "--out", tmp_path / "b", "--weights", out, "--freeze-backbone"),
        *tiny[:-1],
    )
    assert (code, err) == (0, "") and f"{arch} at 64 px, as {out} says" in printed
    (second,) = (tmp_path / "b").iterdir()
    told, then = header(second), header(run)
    assert all(told[key] == then[key] for key in ("arch", "size_px", "mean", "std"))
    now, before = tensors(second), tensors(run)
    assert {k for k in now if not torch.equal(now[k], before[k])} == {"fc.weight", "fc.bias"}


# ------------------------------------------------------------------------ what is not written


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos_once: Path) -> Path:
    """Return a run of a network of timm's, for tests that leave it as it is."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", photos_once, "timm/test_resnet", 64)


def refused(cli, *args: object) -> str:
    code, printed, err = cli("export", *args, "--format=hub", "--threads=1")
    assert code == 1 and not printed and err.count("\n") == 1 and err.startswith("error: ")
    return err


def test_an_export_replaces_one_that_nobody_has_edited(cli, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "hub"
    export = ("export", run, "--format=hub", "--threads=1", "--out", out)
    assert cli(*export)[0] == 0
    first, inode = whole(out), out.stat().st_ino
    assert cli(*export)[0] == 0
    assert whole(out) == first and out.stat().st_ino != inode
    (out / "README.md").write_text("mine")
    assert "were edited since" in refused(cli, run, "--out", out)
    (out / "README.md").write_bytes(first["README.md"])
    (out / "notes.txt").write_text("mine")
    assert "not from an export" in refused(cli, run, "--out", out)
    assert whole(out) == first | {"notes.txt": b"mine"}
    link = tmp_path / "link.d"
    link.symlink_to(out)
    assert "no folder" in refused(cli, run, "--out", link)
    assert "no folder" in refused(cli, run, "--out", out / "notes.txt")
    assert "there is no folder" in refused(cli, run, "--out", tmp_path / "no" / "hub")
    link.unlink()
    assert whole(out) == first | {"notes.txt": b"mine"}


@pytest.mark.parametrize("arch", ["grigri", "squeezenet1_1", "mnasnet0_5"])
def test_a_network_that_no_other_tool_loads_is_one_line(
    cli, photos_once: Path, tmp_path: Path, arch: str
) -> None:
    """torchvision has a ReLU behind SqueezeNet's logits, and no MNASNet from plain tensors."""
    run = make_run(tmp_path / "run", photos_once, arch, 64)
    err = refused(cli, run)
    assert arch in err and "--format onnx or pt2" in err
    assert not [path for path in run.iterdir() if path.is_dir()]


def test_a_folder_that_computes_something_else_is_not_written(
    cli, run: Path, tmp_path: Path, monkeypatch
) -> None:
    load = timm_networks.load_hub_folder

    def other(folder: Path) -> tuple[torch.nn.Module, str]:
        model, runtime = load(folder)
        torch.nn.init.constant_(model.fc.bias, 0.1)
        return model, runtime

    monkeypatch.setattr(timm_networks, "load_hub_folder", other)
    assert "differ by" in refused(cli, run, "--out", tmp_path / "hub")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_and_a_full_disk_leave_what_was_there(
    cli, run: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "hub"
    assert cli("export", run, "--format=hub", "--threads=1", "--out", out)[0] == 0
    before = whole(out)
    size = (out / "model.safetensors").stat().st_size
    words = ("export", run, "--format=hub", "--threads=1", "--out", out)
    process = start(*words, file_size_limit=size // 2)
    _, err = process.communicate()
    assert process.returncode == 1 and "File too large" in err and err.count("\n") == 1, err
    assert whole(out) == before
    read_back = hub_folder._read_back

    def pressed(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return read_back(*args)

    monkeypatch.setattr(hub_folder, "_read_back", pressed)
    assert cli(*words)[0] == 130
    assert whole(out) == before


# -------------------------------------------------------------------------------- the card


def test_names_of_classes_cannot_change_the_card() -> None:
    names = ["a|b", "<script>alert(1)</script>", "two\nlines", "`x`", "# title", "[a](b)"]
    card = Card(ModelInfo("timm/test_resnet", 64, names), {}, {}, Begun("none"))
    text = model_card.to_markdown(card)
    assert "<script>" not in text and "\n# title" not in text and "[a](b)" not in text
    assert "| a\\|b | 0.5000 |" in text and "| two lines | 0.5000 |" in text
    table = text[text.index("| label |") : text.index("## How good")].strip().splitlines()
    assert len(table) == 2 + len(names)


@pytest.mark.parametrize(
    ("arch", "weights", "licence", "forbids"),
    [
        ("timm/test_resnet", "imagenet", "apache-2.0", False),
        ("timm/tf_efficientnet_lite0", "imagenet", "apache-2.0", False),
        ("timm/convnextv2_atto.fcmae", "imagenet", "cc-by-nc-4.0", True),
        ("regnet_y_128gf", "imagenet", "cc-by-nc-4.0", True),
        ("resnet18", "imagenet", "", False),
        ("resnet18", "/no/such/file.pth", "", False),
        ("resnet18", "none", "", False),
    ],
)
def test_the_licence_of_the_first_weights_is_named(
    arch: str, weights: str, licence: str, forbids: bool
) -> None:
    assert factory.licence_of(arch, weights) == licence
    text = model_card.to_markdown(Card(ModelInfo(arch, 64, ["a"]), {}, {}, Begun("file", licence)))
    assert ("forbid commercial use" in text) == forbids
    assert (f"license: {licence}" in text) == bool(licence)
    assert ("licence is not known here" in text) == (not licence)


def test_a_licence_that_the_hub_does_not_list_has_its_name_and_wants_its_text() -> None:
    begun = Begun("imagenet", "apple-amlr", "timm/x.y")
    text = model_card.to_markdown(Card(ModelInfo("timm/x", 64, ["a"]), {}, {}, begun))
    assert "license: other\nlicense_name: apple-amlr\n" in text and "base_model: timm/x.y" in text
    assert "forbid commercial use" in text and "as `LICENSE`" in text


def test_a_score_without_an_interval_has_none() -> None:
    nothing = {"value": None, "low": None, "high": None}
    of_way = {"micro_f1": {"value": 0.5, "low": None, "high": None}, "mAP": nothing}
    validation = {"num_images": 9, "exposure": "seen", "scores": {"at 0.5": of_way}}
    card = Card(ModelInfo("timm/x", 64, ["a"]), {}, validation, Begun("none"))
    text = model_card.to_markdown(card)
    assert "| micro-F1 | 0.5000 |" in text and "| mAP | - |" in text
    assert "some of which it was trained on" in text and "cross-fitted |" not in text
