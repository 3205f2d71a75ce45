"""A run as one file: that it computes what PyTorch computes, and that others can use it."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from readme import the_readmes_program
from small_set import CLASSES

from grigri_fast import __version__
from grigri_fast.config import TrainConfig
from grigri_fast.data import dataset, split
from grigri_fast.inference import exporter
from grigri_fast.models import factory, normalize
from grigri_fast.pipeline import loader as pipeline
from grigri_fast.pipeline.check import check_images
from grigri_fast.runs import checkpoint, run_folder
from grigri_fast.runs.checkpoint import ModelInfo
from grigri_fast.runtime import files
from grigri_fast.runtime.option import write_toml

CPU = torch.device("cpu")


def make_run(folder: Path, photos: Path, arch: str, size_px: int, **info: object) -> Path:
    """Write a run of an untrained network that tells images apart; nothing is symmetric in it."""
    folder.mkdir(parents=True)
    config = TrainConfig(data=str(photos), arch=arch, weights="none", size=size_px)
    (folder / run_folder.CONFIG).write_text(write_toml(config))
    labelled = dataset.load(str(photos))
    parts = split.stratify(labelled, 0.25, 0.0, 0)
    (folder / run_folder.SPLIT).write_text(split.to_json(parts, labelled))
    torch.manual_seed(1)
    model = factory.build(arch, len(CLASSES), size_px, init="he")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    stored = {"flip_test": True, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)} | info
    made = ModelInfo(arch, size_px, list(CLASSES), **stored)
    checkpoint.save(folder / run_folder.LAST, with_spread(model.eval(), made, labelled.paths), made)
    return folder


def with_spread(model: torch.nn.Module, info: ModelInfo, paths: list[Path]) -> torch.nn.Module:
    """Return the network with a head whose probabilities spread from 0.1 to 0.9."""
    logits_NC = logits_of(model, info, pixels(paths, info.size_px))
    layer = factory.head(model)[1]
    low_C, high_C = logits_NC.min(0).values, logits_NC.max(0).values
    factor_C = 2 * math.log(9) / (high_C - low_C)
    with torch.no_grad():
        layer.weight.mul_(factor_C.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.copy_((layer.bias - (low_C + high_C) / 2) * factor_C)
    return model


def logits_of(model: torch.nn.Module, info: ModelInfo, images_NHWC: torch.Tensor) -> torch.Tensor:
    """Return the logits as they were before anything was exported."""
    with torch.inference_mode():
        inputs_NCHW = normalize.normalize(images_NHWC, info.mean, info.std)
        logits_NC = model(inputs_NCHW)
        if info.flip_test:
            logits_NC = (logits_NC + model(inputs_NCHW.flip(3))) / 2
    return logits_NC.clone()


def pixels(paths: list[Path], size_px: int) -> torch.Tensor:
    """Return what evaluation sees of image files."""
    rows = np.arange(len(paths))
    found = check_images(paths, rows, threads=1, max_pixels=10**7)
    options = {"size_px": size_px, "batch_size": 16, "device": CPU, "threads": 1}
    loader = pipeline.ImageLoader(paths, found, **options)
    images_NHWC = torch.cat([batch.images_NHWC for batch in loader.eval_epoch(rows)])
    loader.close()
    return images_NHWC


@pytest.fixture(scope="module")
def good(tmp_path_factory, photos_once: Path) -> Path:
    """Return a run with an exported file, for tests that leave both as they are."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "good", photos_once, "grigri", 32)
    exporter.export(folder, threads=1)
    return folder


def predicted(cli, *args: object) -> list[dict]:
    out = Path(args[0]).parent / "predicted.json"
    code, _, err = cli("predict", *args, "--out", out, "--threads=1")
    assert code == 0, err
    return json.loads(out.read_text())


def probabilities(predictions: list[dict]) -> np.ndarray:
    return np.array([[p["probabilities"][name] for name in CLASSES] for p in predictions])


# ------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize(
    "arch, flip", [("grigri", True), ("simple", False), ("squeezenet1_1", True)]
)
def test_the_file_computes_what_the_checkpoint_does(
    tmp_path: Path, photos_once: Path, arch: str, flip: bool
) -> None:
    folder = make_run(tmp_path / "run", photos_once, arch, 32, flip_test=flip)
    done = exporter.export(folder, threads=1)
    assert done.difference < 1e-5 and done.batch_sizes == [1, 4, 8]
    model, info = checkpoint.load(folder / run_folder.LAST, CPU)
    images_NHWC = pixels(dataset.load(str(photos_once)).paths, 32)
    expected_NC = logits_of(model, info, images_NHWC).sigmoid().numpy()
    assert np.ptp(expected_NC, axis=0).min() > 0.7  # so that a mistake would be seen
    session = onnxruntime.InferenceSession(done.path)
    for n in (1, 3, 48):
        (found_NC,) = session.run(None, {"images": images_NHWC[:n].numpy()})
        assert found_NC.dtype == np.float32
        np.testing.assert_allclose(found_NC, expected_NC[:n], atol=1e-5)


def test_pt2_is_used_without_grigri_fast(good: Path, tmp_path: Path, photos_once: Path) -> None:
    out = tmp_path / "model.pt2"
    assert exporter.export(good, format="pt2", out=out, threads=1).difference < 1e-5
    images_NHWC = pixels(dataset.load(str(photos_once)).paths[:5], 32)
    np.save(tmp_path / "images.npy", images_NHWC.numpy())
    program = (
        "import sys; sys.modules['grigri_fast'] = None\n"
        "import json, numpy, torch\n"
        "extra = {'grigri-fast.json': ''}\n"
        "model = torch.export.load('model.pt2', extra_files=extra).module()\n"
        "images = torch.from_numpy(numpy.load('images.npy'))\n"
        "one, all = model(images[:1]), model(images)\n"
        "about = json.loads(extra['grigri-fast.json'])\n"
        "print(json.dumps([about['class_names'], one.tolist(), all.tolist()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    names, one, all_ = json.loads(done.stdout)
    model, info = checkpoint.load(good / run_folder.LAST, CPU)
    expected_NC = logits_of(model, info, images_NHWC).sigmoid()
    assert names == list(CLASSES)
    np.testing.assert_allclose(all_, expected_NC, atol=1e-5)
    np.testing.assert_allclose(one, expected_NC[:1], atol=1e-5)


# ---------------------------------------------------------------------------- the command


def test_it_says_what_it_wrote_and_nothing_else(cli, good: Path, tmp_path: Path) -> None:
    out = tmp_path / "other.onnx"
    code, printed, err = cli("export", good, "--out", out, "--threads=1")
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert len(lines) == 6
    assert lines[1].split() == ["images", "uint8", "RGB", "(N,", "32,", "32,", "3)"]
    assert lines[2].split() == ["probabilities", "float32", "(N,", "3)"]
    difference = re.search(r"ONNX Runtime \S+ and PyTorch differ by (\S+) at most", lines[3])[1]
    assert float(difference) < 1e-5
    assert lines[4].startswith("on 12 images of the val part of ")
    assert lines[4].endswith("in batches of 1 and 4 and 8")
    assert lines[5] == f"next: grigri-fast predict {out} PHOTOS"
    assert {path.name for path in tmp_path.iterdir()} == {"other.onnx"}


def test_metadata_tell_all_that_is_to_be_known_and_no_paths(good: Path, tmp_path: Path) -> None:
    checkpoint.set_thresholds(good / run_folder.LAST, [0.2, 0.5, 0.7], "by hand")
    try:
        done = exporter.export(good, out=tmp_path / "m.onnx", threads=1)
        pt2 = exporter.export(good, format="pt2", out=tmp_path / "m.pt2", threads=1)
    finally:
        checkpoint.set_thresholds(good / run_folder.LAST, 0.5, "default")
    proto = onnx.load(done.path)
    onnx.checker.check_model(proto)
    about = json.loads({entry.key: entry.value for entry in proto.metadata_props}["grigri-fast"])
    assert about["version"] == __version__ and about["class_names"] == list(CLASSES)
    assert about["thresholds"] == [0.2, 0.5, 0.7] and about["size_px"] == 32
    assert "shrink it until that is 64 px" in about["preprocessing"][1]
    assert "ceil(side / 32 / 1.5)" in about["preprocessing"][2]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    for path in (done.path, pt2.path):
        content = path.read_bytes()
        for folder in (Path(exporter.__file__).parent, Path(torch.__file__).parent, tmp_path):
            assert str(folder).encode() not in content
    extra = {"grigri-fast.json": ""}
    torch.export.load(pt2.path, extra_files=extra)
    of_pt2 = json.loads(extra["grigri-fast.json"])
    assert of_pt2 == {key: value for key, value in about.items() if key != "sha256"}


def test_random_images_where_the_data_are_gone(cli, tmp_path: Path, photos: Path) -> None:
    folder = make_run(tmp_path / "run", photos, "simple", 32)
    photos.rename(tmp_path / "moved")
    code, printed, err = cli("export", folder, "--threads=1", "--format=pt2")
    assert (code, err) == (0, "")
    assert "on 64 random images (the run's own cannot be had: " in printed
    assert "no such file or folder" in printed and (folder / "model.pt2").is_file()


# A mistake in what is exported: nothing is written, and what was there stays.
@pytest.mark.parametrize("format_name", ["onnx", "pt2"])
def test_a_file_that_computes_something_else_is_not_written(
    cli, good: Path, tmp_path: Path, monkeypatch, format_name: str
) -> None:
    def unmirrored(self, images):
        inputs_NCHW = images.permute(0, 3, 1, 2).float() * self.scale_311 - self.offset_311
        return self.model(inputs_NCHW).sigmoid()

    monkeypatch.setattr(exporter._WholeWay, "forward", unmirrored)
    out = tmp_path / f"m.{format_name}"
    out.write_text("before")
    code, printed, err = cli("export", good, "--format", format_name, "--out", out)
    assert (code, printed) == (1, "")
    assert "differ by" in err and "more than 0.0001" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [out.name] and out.read_text() == "before"


def test_numbers_that_are_none_are_not_written(cli, tmp_path: Path, photos_once: Path) -> None:
    folder = make_run(tmp_path / "run", photos_once, "simple", 32)
    model, info = checkpoint.load(folder / run_folder.LAST, CPU)
    torch.nn.init.constant_(factory.head(model)[1].bias, math.nan)
    checkpoint.save(folder / run_folder.LAST, model, info)
    code, _, err = cli("export", folder, "--threads=1")
    assert code == 1 and "differ by nan" in err
    assert not (folder / "model.onnx").exists()


def test_wrong_uses_are_one_line(cli, good: Path, tmp_path: Path, monkeypatch) -> None:
    def refused(*args: object) -> str:
        code, printed, err = cli(*args)
        assert code == 1 and not printed and err.count("\n") == 1 and err.startswith("error: ")
        return err

    assert "no such run folder" in refused("export", tmp_path / "nowhere")
    assert "ends in .onnx" in refused("export", good, "--out", tmp_path / "m.pt2")
    assert "ends in .pt2" in refused("export", good, "--format=pt2", "--out", tmp_path / "m.onnx")
    assert "there is no folder" in refused("export", good, "--out", tmp_path / "no" / "m.onnx")
    (tmp_path / "d.onnx").mkdir()
    assert "it is a folder" in refused("export", good, "--out", tmp_path / "d.onnx")
    assert "no such checkpoint" in refused("export", good, "--checkpoint=best")
    monkeypatch.setattr(exporter, "_MOST_BYTES", 10**6)
    assert "use --format pt2" in refused("export", good)
    for name in ("onnxscript", "onnxruntime"):
        with monkeypatch.context() as without_it:
            without_it.setitem(sys.modules, name, None)
            assert f"needs {name}, not installed here: pip install" in refused("export", good)


# ---------------------------------------------------------------------------- predict with it


def test_predict_says_the_same_of_the_file(cli, tmp_path: Path, photos_once: Path) -> None:
    thresholds = [0.3, 0.5, 0.6]
    folder = make_run(
        tmp_path / "run", photos_once, "grigri", 32, thresholds=thresholds, threshold_source="mine"
    )
    assert cli("export", folder, "--threads=1")[0] == 0
    from_run = predicted(cli, folder, photos_once / "images", "--amp=fp32")
    from_file = predicted(cli, folder / "model.onnx", photos_once / "images")
    assert [p["image"] for p in from_file] == [p["image"] for p in from_run]
    difference = np.abs(probabilities(from_file) - probabilities(from_run)).max()
    assert 0 < difference < 1e-5  # not 0: it was not the checkpoint that answered
    for p in from_file:
        given = [n for n, t in zip(CLASSES, thresholds, strict=True) if p["probabilities"][n] >= t]
        assert p["labels"] == given
    assert len({tuple(p["labels"]) for p in from_file}) > 2
    loaded = exporter.load_onnx(folder / "model.onnx", 1)[1]
    assert loaded == checkpoint.info_of(folder / run_folder.LAST)


def test_predict_with_the_file_alone(cli, good: Path, tmp_path: Path, photos_once: Path) -> None:
    """Without the run, in little memory, beside a file that cannot be used."""
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((good / "model.onnx").read_bytes())
    (tmp_path / "notes.jpg").write_text("no image")
    image = photos_once / "images" / "im7.jpg"
    code, printed, err = cli(
        "predict", alone, image, tmp_path / "notes.jpg", "--device=cpu", "--memory-limit=3GiB"
    )
    assert code == 1 and "notes.jpg: not a JPEG" in err and "the others were labelled" in err
    assert printed.count("\n") == 3 and str(image) in printed
    code, _, err = cli("predict", alone, image, "--memory-limit=100MiB")
    assert code == 1 and "not even one image at a time fits" in err


def test_options_that_would_be_ignored(cli, good: Path, photos_once: Path) -> None:
    for option in ("--device=cuda", "--amp=bf16", "--checkpoint=best"):
        code, _, err = cli("predict", good / "model.onnx", photos_once / "images", option)
        assert code == 1 and f"{option.replace('=', ' ')} does not go with an exported" in err
    code, _, err = cli("predict", good / "model.pt2", photos_once / "images")
    assert code == 1 and "takes a run folder or an ONNX file, no pt2 file" in err


def test_every_damage_is_one_line(cli, good: Path, tmp_path: Path, photos_once: Path) -> None:
    whole = (good / "model.onnx").read_bytes()
    file = tmp_path / "m.onnx"

    def refused(content: bytes, says: str) -> None:
        file.write_bytes(content)
        code, printed, err = cli("predict", file, photos_once / "images")
        assert (code, printed) == (1, "") and err.count("\n") == 1, err
        assert err.startswith(f"error: {file}: ") and says in err

    digits = whole.index(b'"sha256": "') + 20
    for place in (0, len(whole) // 3, len(whole) // 2, digits, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        refused(bytes(flipped), "damaged")
    refused(whole[: len(whole) // 2], "damaged")
    refused(whole + b"\0", "damaged")
    refused(b"", "damaged")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    foreign = onnx.helper.make_model(graph)
    refused(foreign.SerializeToString(), "not an ONNX file of grigri-fast export")
    file.unlink()
    code, _, err = cli("predict", file, photos_once / "images")
    assert code == 1 and err == f"error: {file}: No such file or directory\n"


def with_its_checksum(content: bytes) -> bytes:
    """Return a changed file with the checksum of what it holds now."""
    return exporter._sealed(content, exporter._CHECKSUM.search(content).span(1))


def test_a_file_from_before_the_size_it_was_built_for_was_written_is_read(
    cli, good: Path, tmp_path: Path, photos_once: Path
) -> None:
    whole = (good / "model.onnx").read_bytes()
    assert whole.count(b'"built_px": null') == 1
    file = tmp_path / "m.onnx"
    file.write_bytes(with_its_checksum(whole.replace(b'"built_px"', b'"unknown_"')))
    code, out, err = cli("predict", file, photos_once / "images")
    assert (code, err) == (0, "")
    assert out == cli("predict", good / "model.onnx", photos_once / "images")[1]


def test_files_of_another_format_are_refused(cli, good: Path, tmp_path: Path, photos_once) -> None:
    """Whole, but of a later version, or with a checksum that somebody made fit."""
    whole = (good / "model.onnx").read_bytes()
    file = tmp_path / "m.onnx"
    for old, new, says in (
        (b"grigri-fast export 1", b"grigri-fast export 9", "format 'grigri-fast export 9'"),
        (b'"size_px": 32', b'"size_px": -2', "size_px must be a whole number above 0"),
        (b'"size_px"', b'"sise_px"', "'size_px'"),
        (b'"input": "images:', b'"input":\t\t\t\t\t\t\t\t\t"', "its metadata cannot be used"),
    ):
        assert whole.count(old) == 1 and len(new) <= len(old) + 8
        file.write_bytes(with_its_checksum(whole.replace(old, new[: len(old)])))
        code, _, err = cli("predict", file, photos_once / "images")
        assert code == 1 and says in err and err.count("\n") == 1


def test_predict_needs_onnx_runtime_only(cli, good: Path, photos_once: Path, monkeypatch) -> None:
    images = photos_once / "images"
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "onnxscript", None)
        assert cli("predict", good / "model.onnx", images)[0] == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = cli("predict", good / "model.onnx", images)
    assert code == 1 and err == (
        "error: ONNX needs onnxruntime, not installed here: pip install onnxruntime\n"
    )


# ---------------------------------------------------------------------- the README's program


@pytest.fixture
def wild(tmp_path: Path) -> list[Path]:
    """Return photographs that are large, small, wide, tall, grey, transparent and turned."""
    rng = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate([(300, 200), (24, 20), (150, 61), (48, 130), (32, 32)]):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        paths.append(tmp_path / f"{i}.png")
        image.save(paths[-1])
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        paths.append(tmp_path / f"{i}.jpg")
        image.save(paths[-1], quality=95, exif=exif)
    image.convert("L").save(tmp_path / "grey.png")
    image.putalpha(100)
    image.save(tmp_path / "clear.png")
    return [*paths, tmp_path / "grey.png", tmp_path / "clear.png"]


def test_the_readmes_program_labels_photographs_as_predict_does(
    cli, tmp_path: Path, photos_once: Path, wild: list[Path]
) -> None:
    program = the_readmes_program()
    assert set(re.findall(r"^(?:import|from) .*$", program, re.MULTILINE)) == {
        "import json, math, sys",
        "import numpy, onnxruntime",
        "from PIL import Image, ImageOps",
    }
    folder = make_run(tmp_path / "run", photos_once, "grigri", 32)
    # Thresholds in the widest gap between the probabilities, so that a level more or less in a
    # pixel decides nothing.
    model, info = checkpoint.load(folder / run_folder.LAST, CPU)
    with_spread(model, info, wild)
    sorted_NC = logits_of(model, info, pixels(wild, 32)).sigmoid().sort(0).values.double().numpy()
    widest_C = np.diff(sorted_NC, axis=0).argmax(0)
    assert np.diff(sorted_NC, axis=0).max(0).min() > 0.06
    thresholds = [float(sorted_NC[i : i + 2, c].mean()) for c, i in enumerate(widest_C)]
    checkpoint.save(
        folder / run_folder.LAST, model, dataclasses.replace(info, thresholds=thresholds)
    )

    there = tmp_path / "there"
    there.mkdir()
    assert cli("export", folder, "--out", there / "model.onnx", "--threads=1")[0] == 0
    spied = f"{program}\nnumpy.save('seen.npy', numpy.asarray(photo.reduce(tuple(k))))\n"
    (there / "label.py").write_text(spied)
    seen_NHWC = pixels(wild, 32).numpy().astype(int)
    labels = [p["labels"] for p in predicted(cli, there / "model.onnx", *wild)]
    assert len({tuple(some) for some in labels}) > 2
    for path, expected, image_HWC in zip(wild, labels, seen_NHWC, strict=True):
        done = subprocess.run(
            [sys.executable, "label.py", path], cwd=there, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        off = np.abs(np.load(there / "seen.npy").astype(int) - image_HWC)
        assert off.max() <= 6 and off.mean() < 1.5, path.name
        assert done.stdout.strip() == ", ".join(expected), path.name


def test_what_is_known_of_a_model_is_in_the_file() -> None:
    """A new field of ModelInfo needs no second place to be written."""
    info = ModelInfo("grigri", 32, ["a"])
    about = json.loads(files.to_json(exporter.metadata(info)))
    assert {field.name for field in dataclasses.fields(ModelInfo)} <= set(about)
    assert exporter._info_of(about) == info
