"""int8 in export: what is written, what it is calibrated and scored on, and when it is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from exported_runs import make_run, pixels, predicted

from grigri_fast.evaluation import quantization
from grigri_fast.inference import quantization as int8
from grigri_fast.inference.quantization import Quantized
from grigri_fast.runs import run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos_once: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("int8") / "run", photos_once, "grigri", 32)


@pytest.mark.slow
def test_int8_is_smaller_scored_as_it_is_used_and_calibrated_on_other_photographs(
    cli, monkeypatch, run: Path
) -> None:
    calibrated: list[np.ndarray] = []
    plain_to_int8 = int8.to_int8

    def watched(content, batches):
        calibrated.extend(batch.numpy() for batch in batches)
        return plain_to_int8(content, batches)

    monkeypatch.setattr(int8, "to_int8", watched)
    code, out, err = cli("export", run, "--quantize", "int8", "--threads=1")
    assert (code, err) == (0, ""), err
    file = run / "model-int8.onnx"
    train, val = (run_folder.open_part(run, part) for part in ("train", "val"))
    val_NHWC = pixels([val.data.paths[row] for row in val.rows], 32).numpy()
    seen = {image.tobytes() for image in np.concatenate(calibrated)}
    assert len(seen) == len(train.rows) and not seen & {image.tobytes() for image in val_NHWC}

    # What is in the file: the convolutions in int8 with folded norms, the head in fp32.
    graph = onnx.load(file).graph
    makers = {name: node for node in graph.node for name in node.output}
    is_int8 = [
        all(makers[name].op_type == "DequantizeLinear" for name in node.input[:2] if name in makers)
        and node.input[1] in makers
        for node in graph.node
        if node.op_type == "Conv" and "head" not in node.name
    ]
    assert len(is_int8) >= 2 * 13 and all(is_int8[:13])  # of the image and its mirror image
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    names = [tensor.name for tensor in graph.initializer]
    assert len(names) == len(set(names)) and file.stat().st_size < 4.9e6 * 1.15

    # The scores are those of the file, at the stored thresholds.
    session = onnxruntime.InferenceSession(file)
    (found_NC,) = session.run(None, {"images": val_NHWC})
    targets_NC = val.data.targets_NC[val.rows].astype(bool)
    given_NC = found_NC >= 0.5
    f1 = 2 * (given_NC & targets_NC).sum() / (given_NC.sum() + targets_NC.sum())
    about = json.loads(session.get_modelmeta().custom_metadata_map["grigri-fast"])["quantization"]
    assert about["micro_f1"] == pytest.approx(f1) and 0.2 < f1 < 1
    loss = about["fp32_micro_f1"] - about["micro_f1"]
    assert about["low"] <= loss <= about["high"]
    assert (about["num_images"], about["num_calibrated"]) == (len(val.rows), len(train.rows))
    assert re.search(rf"micro-F1 at the stored\s+thresholds {f1:.4f} instead of", out)

    # OpenVINO, which would compute other labels of it, does not get it.
    code, out, err = cli("predict", file, val.data.paths[0], "--engine=openvino")
    assert (code, out) == (1, "") and err.count("\n") == 1, err
    assert f"{file} is in int8, of which OpenVINO computes wrong labels" in err

    # predict takes it, and gives nearly what the run gives.
    paths = [val.data.paths[row] for row in val.rows]
    ours = [list(p["probabilities"].values()) for p in predicted(cli, run, *paths)]
    others = [list(p["probabilities"].values()) for p in predicted(cli, file, *paths)]
    assert 0 < np.abs(np.array(ours) - others).max() < 0.15


@pytest.mark.slow
def test_a_large_loss_is_refused_and_nothing_is_written(cli, monkeypatch, run, tmp_path) -> None:
    def spoilt(*args) -> Quantized:
        return Quantized(400, micro_f1=0.6, fp32_micro_f1=0.65, low=0.03, high=0.07)

    monkeypatch.setattr(quantization, "_compared", spoilt)
    out = tmp_path / "small.onnx"
    code, printed, err = cli("export", run, "--quantize=int8", "--threads=1", "--out", out)
    assert code == 1 and printed == "" and not out.exists()
    assert re.fullmatch(r"error: \S+: in int8 micro-F1 is .* nothing was written \(.*\)\n", err)


def test_what_int8_needs(cli, run: Path, tmp_path: Path) -> None:
    code, _, err = cli("export", run, "--quantize=int8", "--format=pt2")
    assert (code, err.count("\n")) == (2, 1) and "goes with --format onnx" in err
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = (moved / "config.toml").read_text()
    (moved / "config.toml").write_text(re.sub('data = ".*"', 'data = "/nowhere"', config))
    code, _, err = cli("export", moved, "--quantize=int8")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: --quantize int8 takes the run's photographs: /nowhere: no such")
