"""The stages of networks, and what it means that some of them are frozen."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from grigri_fast.errors import GrigriError
from grigri_fast.models import factory, heads, stages


def first_names(model: nn.Module) -> list[str]:
    return [next(iter(stage)).removesuffix(".weight") for stage in stages.stages(model)]


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("resnet18", ["conv1", *(f"layer{i}.0.conv1" for i in (1, 2, 3, 4))]),
        ("timm/resnet18", ["conv1", *(f"layer{i}.0.conv1" for i in (1, 2, 3, 4))]),
        ("grigri", ["stem.0", *(f"stages.{i}.conv1" for i in range(4))]),
        (
            "timm/tf_efficientnet_lite0",
            ["conv_stem", "blocks.0.0.conv_dw", *(f"blocks.{i}.0.conv_pw" for i in range(1, 7))],
        ),
        ("squeezenet1_1", [f"features.{i}" for i in (0, 3, 4, 6, 7, 9, 10, 11, 12)]),
    ],
)
def test_the_stages_of_a_network(arch: str, names: list[str]) -> None:
    found = first_names(factory.build(arch, 3, 64))
    assert [name.removesuffix(".squeeze") for name in found] == names


@pytest.mark.parametrize("arch", ["vgg11", "densenet121", "vit_b_16", "swin_t"])
def test_every_parameter_is_in_one_stage_or_in_the_head(arch: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(arch, num_classes=3)
    found = [id(p) for stage in stages.stages(model) for p in stage.values()]
    found += [id(p) for _, layer in heads.heads(model) for p in layer.parameters()]
    assert sorted(found) == sorted(map(id, model.parameters()))


def test_what_is_behind_all_blocks_belongs_to_the_last_one() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    found = stages.stages(model)
    assert len(found) == 13 and "cls_token" in found[0]
    assert list(found[-1])[-2:] == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize("arch", ["resnet18", "timm/tf_efficientnet_lite0"])
def test_frozen_stages_do_not_move_and_cost_no_backward_pass(arch: str) -> None:
    torch.manual_seed(0)
    model = factory.build(arch, 3, 64)
    stages.freeze(model, 3)
    heads.set_training(model, frozen_backbone=False)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    inputs = []
    fourth = {"resnet18": "layer3", "timm/tf_efficientnet_lite0": "blocks.2"}[arch]
    model.get_submodule(fourth).register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    assert not any(x.requires_grad for x in inputs)  # nothing is kept of what comes before
    frozen = {module_of(name) for stage in stages.stages(model)[:3] for name in stage}
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved and not any(module_of(name) in frozen for name in moved)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained <= moved  # all others move, and their statistics
    assert any("running_mean" in name for name in moved)


def module_of(name: str) -> str:
    """Return the module that a parameter or a buffer is in."""
    return name.rpartition(".")[0]


def test_frozen_norms_keep_their_statistics_and_train_their_scales() -> None:
    model = factory.build("resnet18", 3, 64)
    heads.set_training(model, frozen_backbone=False, frozen_norms=True)
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    assert model.training and all(b.equal(before[name]) for name, b in model.named_buffers())
    assert model.bn1.weight.grad is not None
    heads.set_training(model, frozen_backbone=False)
    assert all(m.training for m in model.modules())


def test_more_stages_than_there_are_is_an_error() -> None:
    model = factory.build("resnet18", 3, 64)
    assert stages.in_words(model, 2).endswith("trained from layer2.0.conv1.weight on")
    with pytest.raises(GrigriError, match=r"--freeze-stages 6: the network has 5 stages"):
        stages.freeze(model, 6)
    stages.freeze(model, 5)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
