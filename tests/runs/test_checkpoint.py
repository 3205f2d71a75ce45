import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from grigri_fast.models import factory
from grigri_fast.models import normalize
from grigri_fast.runs import checkpoint
from grigri_fast.runs.checkpoint import ModelInfo, Progress
from grigri_fast.errors import GrigriError

CPU = torch.device("cpu")
INFO = ModelInfo("resnet18", 32, ["cat", "hot dog", "é"], epoch=3, scores={"micro_f1": 0.5})


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    model = factory.build("resnet18", 3, 32).to(memory_format=torch.channels_last)
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, model, INFO)
    return path, model


def write(path: Path, fields: dict, format_name: str = checkpoint._FORMAT) -> None:
    checkpoint._write(path, {"a": torch.zeros(1)}, fields, format_name)


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
    checkpoint._write(tmp_path / "x", model.state_dict(), header, checkpoint._FORMAT)
    with pytest.raises(GrigriError):
        checkpoint.load(tmp_path / "x", CPU)


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 20_000], ids=lambda t: t[:4])
def test_a_header_that_is_no_object_is_a_grigri_error(tmp_path: Path, text: str) -> None:
    note = json.dumps({"sha256": "0" * 64})
    content = bytearray(
        safetensors.torch.save({"a": torch.zeros(1)}, {"note": note, "grigri-fast": text})
    )
    where = checkpoint._CHECKSUM.search(content)
    digest = hashlib.sha256(content).hexdigest().encode()
    content[where.start(1) : where.end(1)] = digest
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(GrigriError, match="damaged checkpoint"):
        checkpoint.load(tmp_path / "x", CPU)


@pytest.mark.parametrize("seed", range(4))
def test_every_flipped_bit_is_noticed(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "x"
    checkpoint.save(path, factory.build("simple", 2, 16), ModelInfo("simple", 16, ["a", "b"]))
    content = path.read_bytes()
    length = 8 * (8 + int.from_bytes(content[:8], "little"))
    rng = np.random.default_rng(seed)
    bits = [*rng.integers(0, length, 40).tolist(), int(rng.integers(length, 8 * len(content)))]
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(GrigriError, match="damaged"):
            checkpoint.load(path, CPU)


@pytest.mark.timeout(60)
def test_a_huge_file_that_is_no_checkpoint_is_not_read(tmp_path: Path) -> None:
    for start in (b"", b"\xff" * 7 + b"\x0f", b"\x00\x00\x00\x7f\x00\x00\x00\x00{"):
        with (tmp_path / "x").open("wb") as file:
            file.write(start)
            file.truncate(10**12)
        with pytest.raises(GrigriError, match="damaged checkpoint, or none of grigri-fast"):
            checkpoint.load(tmp_path / "x", CPU)


@pytest.mark.timeout(60)
def test_a_checkpoint_with_much_behind_it_is_not_read(saved) -> None:
    path, _ = saved
    with path.open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(GrigriError, match="its size is not what its header says"):
        checkpoint.load(path, CPU)


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    model = factory.build("simple", 2, 16)
    for name in "ab":
        checkpoint.save(tmp_path / name, model, ModelInfo("simple", 16, ["a", "b"]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ------------------------------------------------------------------------------- run states


def trained_for(steps: int, optimizer_of) -> tuple:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model.parameters())
    for _ in range(steps):
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


OPTIMIZERS = {
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_comes_back_whole(tmp_path: Path, name: str) -> None:
    progress = Progress(epoch=3, batches=2, totals=[0.1, 2.0], bad={"a": ("gone", 2)})
    progress.history.append({"epoch": 1, "val_mAP": float("nan"), "lr": 0.1 + 0.2})
    model, optimizer, scaler = trained_for(3, OPTIMIZERS[name])
    path = tmp_path / "resume"
    checkpoint.save_state(path, tmp_path / "previous", model, optimizer, scaler, progress)
    drawn = torch.rand(5)
    other, second, scaler = trained_for(0, OPTIMIZERS[name])
    state = checkpoint.load_state(path)
    state.restore(other, second, scaler)
    assert torch.equal(torch.rand(5), drawn)  # random numbers go on where they were
    assert equal(other, model)
    before, after = optimizer.state_dict()["state"], second.state_dict()["state"]
    assert before.keys() == after.keys()
    for i, values in before.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, after[i][key])
                assert value.stride() == after[i][key].stride()
            else:
                assert value == after[i][key]
    assert repr(state.progress) == repr(progress)  # NaN is not equal to itself


def test_a_model_is_no_state_and_a_state_no_model(saved, tmp_path: Path) -> None:
    path, _ = saved
    with pytest.raises(GrigriError, match="not a file of this kind"):
        checkpoint.load_state(path)
    model, optimizer, scaler = trained_for(1, OPTIMIZERS["sgd"])
    state = tmp_path / "resume"
    checkpoint.save_state(state, tmp_path / "previous", model, optimizer, scaler, Progress())
    with pytest.raises(GrigriError, match="not a file of this kind"):
        checkpoint.load(state, CPU)


@pytest.mark.parametrize("fields", [{}, {"progress": {"colour": 1}}, {"progress": 3}])
def test_a_state_of_wrong_fields_is_a_grigri_error(tmp_path: Path, fields: dict) -> None:
    write(tmp_path / "x", fields, checkpoint._STATE_FORMAT)
    with pytest.raises(GrigriError, match="damaged checkpoint header"):
        checkpoint.load_state(tmp_path / "x")
