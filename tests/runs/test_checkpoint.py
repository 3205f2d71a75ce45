import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from grigri_fast.errors import GrigriError
from grigri_fast.models import factory, normalize
from grigri_fast.runs import checkpoint, sealed_file
from grigri_fast.runs.checkpoint import ModelInfo

CPU = torch.device("cpu")
INFO = ModelInfo("resnet18", 32, ["cat", "hot dog", "é"], epoch=3, scores={"micro_f1": 0.5})


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    model = factory.build("resnet18", 3, 32).to(memory_format=torch.channels_last)
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, model, INFO)
    return path, model


def write(path: Path, fields: dict, format_name: str = checkpoint.FORMAT) -> None:
    sealed_file.write(path, {"a": torch.zeros(1)}, fields, format_name)


def flipped(content: bytes, bit: int) -> bytes:
    """Return the content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_round_trip(saved) -> None:
    path, model = saved
    loaded, info = checkpoint.load(path, CPU)
    assert equal(loaded, model) and not loaded.training
    assert loaded.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert (info.arch, info.size_px, info.class_names) == ("resnet18", 32, INFO.class_names)
    assert (info.epoch, info.scores) == (3, {"micro_f1": 0.5})
    assert tuple(info.mean) == normalize.IMAGENET_MEAN and tuple(info.std) == normalize.IMAGENET_STD
    assert info.thresholds_C.tolist() == [0.5] * 3


@pytest.mark.parametrize("thresholds", [0.37, [0.1, 0.2, 0.3]])
def test_thresholds_are_stored_beside_the_same_weights(saved, thresholds) -> None:
    path, model = saved
    checkpoint.set_thresholds(path, thresholds, "best micro-F1")
    loaded, info = checkpoint.load(path, CPU)
    assert equal(loaded, model)
    assert info.threshold_source == "best micro-F1" and info.epoch == 3
    assert info.thresholds_C.tolist() == np.broadcast_to(thresholds, 3).tolist()


def test_other_programs_can_read_it(saved) -> None:
    path, model = saved
    state = safetensors.torch.load_file(path)
    assert state.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda p: p.unlink(), "no such checkpoint"),
        (lambda p: p.write_bytes(b""), "damaged checkpoint"),
        (lambda p: p.write_text("hello"), "damaged checkpoint"),
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), "damaged checkpoint"),
        (lambda p: p.write_bytes(b"\xff" * 8 + p.read_bytes()[8:]), "damaged checkpoint"),
        (
            lambda p: p.write_bytes(flipped(p.read_bytes(), 8 * 100_000)),
            "its checksum does not fit",
        ),
        (lambda p: p.write_bytes(p.read_bytes() + b"\0"), "its size is not what"),
        (lambda p: safetensors.torch.save_file({"a": torch.zeros(1)}, p), "or none of grigri-fast"),
        (lambda p: write(p, {"colour": 3}), "damaged checkpoint header"),
        (lambda p: write(p, {}), "damaged checkpoint header"),
        (lambda p: write(p, dataclasses.asdict(INFO)), "the weights do not fit resnet18"),
        (lambda p: write(p, dataclasses.asdict(INFO), "other"), "not a file of this kind"),
    ],
)
def test_files_that_are_no_checkpoint(saved, damage, says: str) -> None:
    path, _ = saved
    damage(path)
    with pytest.raises(GrigriError) as error:
        checkpoint.load(path, CPU)
    message = str(error.value)
    assert says in message and str(path) in message and len(message) < 500


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    ["mnasnet0_5", "mnasnet1_0", "googlenet", "squeezenet1_1", "swin_t", "vit_b_32", "simple"],
)
def test_every_family_comes_back_from_a_checkpoint(tmp_path: Path, arch: str) -> None:
    model = factory.build(arch, 3, 64).eval()
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, model, ModelInfo(arch, 64, ["a", "b", "c"]))
    loaded, _ = checkpoint.load(path, CPU)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), rtol=1e-4, atol=1e-4)


def test_the_information_comes_back_equal(tmp_path: Path) -> None:
    info = ModelInfo("simple", 16, ["a", "b"], [0.1, 0.25], "tuned", epoch=2, scores={"mAP": 0.1})
    checkpoint.save(tmp_path / "x", factory.build("simple", 2, 16), info)
    assert checkpoint.load(tmp_path / "x", CPU)[1] == info


@pytest.mark.parametrize(
    "fields",
    [
        {"arch": "resnet999"},
        {"size_px": "64"},
        {"class_names": "cat"},
        {"class_names": 3},
        {"thresholds": [0.1]},
        {"thresholds": "high"},
        {"mean": 3},
    ],
    ids=str,
)
def test_a_header_of_wrong_types_is_a_grigri_error(tmp_path: Path, fields: dict) -> None:
    model = factory.build("simple", 2, 16)
    header = {"arch": "simple", "size_px": 16, "class_names": ["a", "b"]} | fields
    sealed_file.write(tmp_path / "x", model.state_dict(), header, checkpoint.FORMAT)
    with pytest.raises(GrigriError):
        checkpoint.load(tmp_path / "x", CPU)
