"""Exported ONNX files are read, run and refused."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_runs import make_run, pixels, predicted, probabilities
from small_set import CLASSES

from grigri_fast.data import dataset
from grigri_fast.inference import onnx as onnx_files
from grigri_fast.inference import openvino, quantization
from grigri_fast.runs import checkpoint, run_folder
from grigri_fast.runtime import compute


@pytest.mark.slow
def test_predict_says_the_same_of_the_file(cli, tmp_path: Path, photos_once: Path) -> None:
    thresholds = [0.3, 0.5, 0.6]
    folder = make_run(
        tmp_path / "run", photos_once, "grigri", 32, thresholds=thresholds, threshold_source="mine"
    )
    assert cli("export", folder, "--threads=1")[0] == 0
    from_run = predicted(cli, folder, photos_once / "images", "--amp=fp32")
    from_file = predicted(
        cli, folder / "model.onnx", photos_once / "images", "--engine=onnxruntime"
    )
    assert [p["image"] for p in from_file] == [p["image"] for p in from_run]
    difference = np.abs(probabilities(from_file) - probabilities(from_run)).max()
    assert 0 < difference < 1e-5  # not 0: it was not the checkpoint that answered
    for p in from_file:
        given = [n for n, t in zip(CLASSES, thresholds, strict=True) if p["probabilities"][n] >= t]
        assert p["labels"] == given
    assert len({tuple(p["labels"]) for p in from_file}) > 2
    loaded = onnx_files.load(folder / "model.onnx", 1)[1]
    assert loaded == checkpoint.info_of(folder / run_folder.LAST)


@pytest.mark.slow
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
        code, _, err = cli(
            "predict", good / "model.onnx", photos_once / "images", option, "--engine=onnxruntime"
        )
        assert code == 1 and f"{option.replace('=', ' ')} does not go with an exported" in err
    code, _, err = cli("predict", good / "model.pt2", photos_once / "images")
    assert code == 1 and "takes a run folder or an ONNX file, no pt2 file" in err


def test_engines_that_do_not_go_with_what_is_computed(cli, good: Path, photos_once: Path) -> None:
    code, _, err = cli("predict", good / "model.onnx", photos_once / "images", "--engine=torch")
    assert code == 1 and "--engine torch does not go with an exported file" in err
    for engine in ("openvino", "onnxruntime"):
        code, _, err = cli("predict", good, photos_once / "images", "--engine", engine)
        assert code == 1 and err.count("\n") == 1, err
        assert f"--engine {engine} computes exported files: run grigri-fast export" in err
    images = photos_once / "images"
    assert cli("predict", good, images, "--engine=torch") == cli("predict", good, images)


def test_without_openvino_onnx_runtime_computes(cli, good: Path, photos_once, monkeypatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    assert onnx_files.pick_engine(good / "model.onnx", "auto", "auto") == ("onnxruntime", "fp32")
    code, _, err = cli("predict", good / "model.onnx", photos_once, "--engine=openvino")
    assert code == 1 and err == (
        "error: --engine openvino needs openvino, not installed here: pip install openvino\n"
    )


def test_a_file_in_int8_is_not_for_openvino(
    cli, good: Path, tmp_path: Path, photos_once: Path, monkeypatch
) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: True)
    monkeypatch.setattr(compute, "pick_amp", lambda name, device: "bf16")
    plain, file = good / "model.onnx", tmp_path / "int8.onnx"
    about = onnx_files.load(plain, 1)[0].metadata() | {"quantization": {"to": "int8"}}
    file.write_bytes(quantization.with_metadata(plain.read_bytes(), about))
    assert onnx_files.pick_engine(plain, "auto", "auto") == ("openvino", "auto")
    assert onnx_files.pick_engine(file, "auto", "auto") == ("onnxruntime", "fp32")
    code, printed, err = cli("predict", file, photos_once, "--engine=openvino")
    assert (code, printed) == (1, "") and err.count("\n") == 1, err
    assert f"{file} is in int8, of which OpenVINO computes wrong labels" in err


@pytest.mark.parametrize("amp, tolerance", [("fp32", 1e-5), ("bf16", 0.05)])
def test_openvino_computes_what_onnx_runtime_does(
    good: Path, photos_once: Path, amp: str, tolerance: float
) -> None:
    images_NHWC = pixels(dataset.load(str(photos_once)).paths, 32)
    expected, info = onnx_files.load(good / "model.onnx", 1)
    found, same_info = onnx_files.load(good / "model.onnx", 2, "openvino", amp)
    assert same_info == info
    for n in (1, 2, 5, 33):  # a thread without images, and parts of several sizes
        difference = found(images_NHWC[:n]) - expected(images_NHWC[:n])
        assert difference.abs().max() <= tolerance and difference.dtype == torch.float32
    assert found(images_NHWC)[:, 0].diff().abs().max() > 0.2  # so that a mix-up would be seen
    assert "openvino" in sys.modules  # without what reports each import to its makers
    assert not [name for name in sys.modules if "openvino_telemetry" in name or ".ovc" in name]


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
    return onnx_files.sealed(content)


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
    words = ["predict", good / "model.onnx", photos_once / "images", "--engine=onnxruntime"]
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "onnxscript", None)
        assert cli(*words)[0] == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = cli(*words)
    assert code == 1 and err == (
        "error: ONNX needs onnxruntime, not installed here: pip install onnxruntime\n"
    )
