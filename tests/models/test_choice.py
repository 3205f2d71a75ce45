"""Which network is taken where ``--arch`` and ``--size`` do not say."""

from pathlib import Path

import pytest
import torch

from grigri_fast.errors import GrigriError
from grigri_fast.models import choice, factory
from grigri_fast.runs import checkpoint
from grigri_fast.runs.checkpoint import ModelInfo


@pytest.mark.parametrize(
    ("weights", "device", "arch", "size_px"),
    [
        ("imagenet", "cuda", "resnet34", 224),
        ("imagenet", "cpu", "timm/tf_efficientnet_lite2", 260),
        ("none", "cuda", "resnet34", 224),
        ("none", "cpu", "grigri", 128),
    ],
)
def test_auto_is_what_suits_the_device(weights: str, device: str, arch: str, size_px: int) -> None:
    chosen = choice.choose("auto", None, weights, device)
    assert (chosen.arch, chosen.size_px) == (arch, size_px)
    assert chosen.why.startswith(f"{arch} at {size_px} px") and "--arch" in chosen.why
    assert choice.choose("auto", 96, weights, device).size_px == 96


def test_what_is_given_is_kept_and_nothing_is_said() -> None:
    assert choice.choose("resnet18", 64, "imagenet", "cpu") == choice.Choice("resnet18", 64)


@pytest.mark.parametrize(
    ("arch", "size_px"),
    [
        ("resnet18", 224),
        ("simple", 128),
        ("timm/tf_efficientnet_lite1", 240),
        ("timm/vit_small_patch14_dinov2.lvd142m", 518),
    ],
)
def test_a_networks_own_size(arch: str, size_px: int) -> None:
    chosen = choice.choose(arch, None, "imagenet", "cpu")
    assert chosen.size_px == size_px and "--size" in chosen.why


def test_a_checkpoint_says_of_which_network_it_is(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    info = ModelInfo("simple", 32, ["a", "b"], built_px=16, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    checkpoint.save(path, factory.build("simple", 2, 16), info)
    chosen = choice.choose("auto", None, str(path), "cpu")
    assert (chosen.arch, chosen.size_px) == ("simple", 16) and str(path) in chosen.why
    model = factory.build_pretrained("simple", 3, 16, str(path))
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert checkpoint.load(path, torch.device("cpu"))[0].preprocessing == model.preprocessing


def test_another_file_does_not_say_it(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(GrigriError, match=r"w.pth does not say .* name it with --arch"):
        choice.choose("auto", None, str(tmp_path / "w.pth"), "cpu")
    with pytest.raises(GrigriError, match="no such file"):
        choice.choose("auto", None, str(tmp_path / "nowhere.pth"), "cpu")
