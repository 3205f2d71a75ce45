import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from grigri_fast.errors import GrigriError
from grigri_fast.models import factory
from grigri_fast.runs import checkpoint, sealed_file
from grigri_fast.runs.checkpoint import ModelInfo

CPU = torch.device("cpu")


def flipped(content: bytes, bit: int) -> bytes:
    """Return the content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 20_000], ids=lambda t: t[:4])
def test_a_header_that_is_no_object_is_a_grigri_error(tmp_path: Path, text: str) -> None:
    note = json.dumps({"sha256": "0" * 64})
    content = bytearray(
        safetensors.torch.save({"a": torch.zeros(1)}, {"note": note, "grigri-fast": text})
    )
    where = sealed_file._CHECKSUM.search(content)
    digest = hashlib.sha256(content).hexdigest().encode()
    content[where.start(1) : where.end(1)] = digest
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(GrigriError, match="damaged checkpoint"):
        checkpoint.load(tmp_path / "x", CPU)


@pytest.mark.slow
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
def test_a_checkpoint_with_much_behind_it_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    checkpoint.save(path, factory.build("simple", 2, 16), ModelInfo("simple", 16, ["a", "b"]))
    with path.open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(GrigriError, match="its size is not what its header says"):
        checkpoint.load(path, CPU)


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    model = factory.build("simple", 2, 16)
    for name in "ab":
        checkpoint.save(tmp_path / name, model, ModelInfo("simple", 16, ["a", "b"]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(
    tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "x"
    sealed_file.write(path, {"a": torch.zeros(3)}, {"text": "short"}, "test 1")
    require_size = sealed_file._require_size

    def replaced_meanwhile(file) -> None:
        require_size(file)
        sealed_file.write(path, {"a": torch.ones(5)}, {"text": "longer" * 99}, "test 1")

    monkeypatch.setattr(sealed_file, "_require_size", replaced_meanwhile)
    tensors, fields = sealed_file.read(path, "test 1")
    assert fields == {"text": "short"} and tensors["a"].tolist() == [0, 0, 0]
