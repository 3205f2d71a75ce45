import pytest
import torch
from torch import nn

from grigri_fast.models import depthwise
from grigri_fast.models.depthwise import FastGradients


def _gradients(layer: nn.Module, images_NCHW: torch.Tensor, fast: bool) -> list[torch.Tensor]:
    """Return the output of a layer in bf16, and the gradients of its input and weights."""
    images_NCHW = images_NCHW.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        if fast:
            with FastGradients():
                output = layer(images_NCHW)
        else:
            output = layer(images_NCHW)
    output.float().pow(2).sum().backward()
    return [output.detach(), images_NCHW.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"),
    [(5, 1, 2, False), (5, 2, 0, True), (3, 2, 1, False), (7, 1, 3, True), ((3, 5), (2, 1), 2, 0)],
)
def test_output_and_gradients_are_pytorchs(kernel, stride, padding, bias) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, padding, groups=8, bias=bool(bias))
    images_NCHW = torch.randn(4, 8, 15, 18).to(memory_format=torch.channels_last)
    used = []
    apply = depthwise._Depthwise.apply

    class Spy:
        @staticmethod
        def apply(*inputs):
            used.append(inputs)
            return apply(*inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "_Depthwise", Spy)
        ours = _gradients(layer, images_NCHW, fast=True)
    plain = _gradients(layer, images_NCHW, fast=False)
    assert len(used) == 1
    for one, other in zip(ours, plain, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        error = (one.float() - other.float()).norm() / other.float().norm()
        assert error < 0.01  # bf16 has 8 bits


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # PyTorch is as fast
        nn.Conv2d(8, 8, 5, groups=4),
        nn.Conv2d(8, 16, 5, groups=8),
        nn.Conv2d(8, 8, 5, groups=8, dilation=2),
        nn.Conv2d(8, 8, 5, groups=8, padding="same"),
        nn.Conv2d(8, 8, 1, stride=2),
    ],
)
def test_other_convolutions_are_left_alone(layer, monkeypatch) -> None:
    monkeypatch.delattr(depthwise, "_Depthwise")
    ours = _gradients(layer, torch.ones(2, 8, 16, 16), fast=True)
    plain = _gradients(layer, torch.ones(2, 8, 16, 16), fast=False)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


def test_fp32_and_passes_without_gradients_are_left_alone(monkeypatch) -> None:
    monkeypatch.delattr(depthwise, "_Depthwise")
    layer = nn.Conv2d(8, 8, 5, groups=8)
    with FastGradients():
        layer(torch.ones(2, 8, 16, 16)).sum().backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.ones(2, 8, 16, 16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(8, 8, 5, groups=8), True),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, 5, groups=2), False),
        (nn.Conv2d(1, 1, 5), False),
    ],
)
def test_it_helps_networks_with_slow_layers_in_bf16_on_a_cpu(layer, expected: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 7, stride=2), layer)
    assert depthwise.helps(model, torch.device("cpu"), "bf16") is expected
    assert not depthwise.helps(model, torch.device("cpu"), "fp32")
    assert not depthwise.helps(model, torch.device("cuda"), "bf16")
