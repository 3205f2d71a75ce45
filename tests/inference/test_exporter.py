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
from exported_runs import CPU, logits_of, make_run, pixels, predicted, with_spread
from PIL import Image
from readme import the_manuals_program
from small_set import CLASSES

from grigri_fast import __version__
from grigri_fast.data import dataset
from grigri_fast.inference import exporter
from grigri_fast.inference import onnx as onnx_files
from grigri_fast.models import heads
from grigri_fast.runs import checkpoint, run_folder
from grigri_fast.runs.checkpoint import ModelInfo
from grigri_fast.runtime import files

# ------------------------------------------------------------------------- what is computed


@pytest.mark.slow
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


class Limited(torch.nn.Module):
    """Changes a tensor in place that nobody else sees, and one that another is a view of."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        doubled, tripled = 2 * images, 3 * images
        alone = torch.nn.functional.hardtanh_(doubled, -0.5, 0.5)
        torch.nn.functional.relu6(tripled.view(5, 10), inplace=True)
        return torch.nn.functional.relu6(alone + tripled)


def test_a_relu6_is_written_as_a_clamp_where_nobody_sees_its_input() -> None:
    images = torch.linspace(-9, 9, 50)
    program = torch.export.export(Limited(), (images,))
    exporter._write_as_clamps(program.graph)
    kinds = [str(node.target) for node in program.graph.nodes]
    assert [kind for kind in kinds if "clamp" in kind or "hardtanh" in kind or "relu6" in kind] == [
        "aten.clamp.default",
        "aten.relu6_.default",
        "aten.clamp.default",
    ]
    assert torch.equal(program.module()(images), Limited()(images))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_metadata_tell_all_that_is_to_be_known_and_no_paths(good: Path, tmp_path: Path) -> None:
    source = f"best F1 of each class on the val part of {tmp_path}/photos"  # as eval --save does
    checkpoint.set_thresholds(good / run_folder.LAST, [0.2, 0.5, 0.7], source)
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
    assert about["threshold_source"] == "best F1 of each class"
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


@pytest.mark.slow
def test_random_images_where_the_data_are_gone(cli, tmp_path: Path, photos: Path) -> None:
    folder = make_run(tmp_path / "run", photos, "simple", 32)
    photos.rename(tmp_path / "moved")
    code, printed, err = cli("export", folder, "--threads=1", "--format=pt2")
    assert (code, err) == (0, "")
    assert "on 64 random images (the run's own cannot be had: " in printed
    assert "no such file or folder" in printed and (folder / "model.pt2").is_file()


# A mistake in what is exported: nothing is written, and what was there stays.
@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["onnx", "pt2"])
def test_a_file_that_computes_something_else_is_not_written(
    cli, good: Path, tmp_path: Path, monkeypatch, format_name: str
) -> None:
    def unmirrored(self, images):
        inputs_NCHW = images.permute(0, 3, 1, 2).float() * self.scale_311 - self.offset_311
        return self.model(inputs_NCHW).sigmoid()

    monkeypatch.setattr(exporter._ImagesToProbabilities, "forward", unmirrored)
    out = tmp_path / f"m.{format_name}"
    out.write_text("before")
    code, printed, err = cli("export", good, "--format", format_name, "--out", out)
    assert (code, printed) == (1, "")
    assert "differ by" in err and "more than 0.0001" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [out.name] and out.read_text() == "before"


@pytest.mark.slow
def test_numbers_that_are_none_are_not_written(cli, tmp_path: Path, photos_once: Path) -> None:
    folder = make_run(tmp_path / "run", photos_once, "simple", 32)
    model, info = checkpoint.load(folder / run_folder.LAST, CPU)
    torch.nn.init.constant_(heads.heads(model)[-1][1].bias, math.nan)
    checkpoint.save(folder / run_folder.LAST, model, info)
    code, _, err = cli("export", folder, "--threads=1")
    assert code == 1 and "differ by nan" in err
    assert not (folder / "model.onnx").exists()


@pytest.mark.slow
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
    monkeypatch.setattr(onnx_files, "MAX_BYTES", 10**6)
    assert "use --format pt2" in refused("export", good)
    for name in ("onnxscript", "onnxruntime"):
        with monkeypatch.context() as without_it:
            without_it.setitem(sys.modules, name, None)
            assert f"needs {name}, not installed here: pip install" in refused("export", good)


# ---------------------------------------------------------------------- the manual's program


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
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257  # 16 bits
    Image.fromarray(deep).save(tmp_path / "deep.png")
    return [*paths, *(tmp_path / f"{name}.png" for name in ("grey", "clear", "deep"))]


@pytest.mark.slow
def test_the_manuals_program_labels_photographs_as_predict_does(
    cli, tmp_path: Path, photos_once: Path, wild: list[Path]
) -> None:
    program = the_manuals_program()
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
    spied = f"{program}\nnumpy.save('seen.npy', pixels)\n"
    (there / "label.py").write_text(spied)
    seen_NHWC = pixels(wild, 32).numpy().astype(int)
    given = predicted(cli, there / "model.onnx", *wild, "--engine=onnxruntime")
    labels = [p["labels"] for p in given]
    assert len({tuple(some) for some in labels}) > 2
    for path, expected, image_HWC in zip(wild, labels, seen_NHWC, strict=True):
        done = subprocess.run(
            [sys.executable, "label.py", path], cwd=there, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        off = np.abs(np.load(there / "seen.npy").astype(int) - image_HWC)
        assert off.max() <= 6 and off.mean() < 0.5, (path.name, off.max(), off.mean())
        assert done.stdout.strip() == ", ".join(expected), path.name


def test_what_is_known_of_a_model_is_in_the_file() -> None:
    """A new field of ModelInfo needs no second place to be written."""
    info = ModelInfo("grigri", 32, ["a"])
    about = json.loads(files.to_json(exporter.metadata(info)))
    assert {field.name for field in dataclasses.fields(ModelInfo)} <= set(about)
    assert onnx_files.info_of(about) == info
