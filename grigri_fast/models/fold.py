"""BatchNorms folded into the convolutions before them: the same function of fewer steps.

In evaluation a BatchNorm is a scale and a shift per channel, which the weights of the convolution
can have in them; then the norm is gone. Measured on a CPU in bf16: EfficientNet-Lite2's forward
pass is 1.18 times as fast (benchmarks/README.md).
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def folded(model: nn.Module, size_px: int) -> nn.Module:
    """Return a copy of a network in eval mode whose BatchNorms are folded, where that can be.

    Which norm follows which convolution is found by running the network once; that the copy
    computes the same is tried out; where it does not, it is a copy of the network as it is.

    Args:
        model: a network for inputs (N, 3, size, size).
        size_px: side of the input.
    """
    result = copy.deepcopy(model).eval()
    device = next(result.parameters()).device
    generator = torch.Generator().manual_seed(0)
    noise_NCHW = torch.randn(2, 3, size_px, size_px, generator=generator).to(device)
    expected, pairs = _run(result, noise_NCHW)
    for conv_name, norm_name in pairs:
        conv: Any = result.get_submodule(conv_name)
        norm: Any = result.get_submodule(norm_name)
        result.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        # timm's BatchNormAct2d also drops out and activates.
        rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        result.set_submodule(norm_name, nn.Sequential(*rest) if rest else nn.Identity())
    found = result(noise_NCHW)
    tolerance = 1e-3 * float(expected.abs().max())
    is_same = torch.allclose(found, expected, rtol=1e-3, atol=tolerance)
    return result if is_same else copy.deepcopy(model).eval()


def in_format(model: nn.Module, amp: str) -> nn.Module:
    """Return a network for evaluation in a number format, whose weights are changed to it.

    It computes the same bits as before under autocast, which converts the weights of convolutions
    and linear layers in each call (PyTorch keeps what it has converted only for training). Measured
    on a CPU in bf16: 4 to 6 % of EfficientNet-Lite0's forward pass (benchmarks/README.md). Layers
    of a class of their own stay as they are: they may compute with their weights first.
    """
    if amp == "bf16":
        for layer in model.modules():
            if type(layer) in (nn.Conv2d, nn.Linear):
                layer.to(torch.bfloat16)
    return model


def _run(model: nn.Module, inputs_NCHW: torch.Tensor) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """Return a network's output, and the names of convolutions and the norms that follow them."""
    outputs: dict[int, tuple[str, torch.Tensor]] = {}  # of convolutions, by identity, kept alive
    found: list[tuple[str, str]] = []

    def after(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: outputs.update({id(output): (name, output)})

    def before(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if id(inputs[0]) in outputs:
                found.append((outputs[id(inputs[0])][0], name))

        return note

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after(name)))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(before(name)))
    output: torch.Tensor = model(inputs_NCHW)
    for hook in hooks:
        hook.remove()
    convs, norms = (Counter(names) for names in zip(*found, strict=True)) if found else ({}, {})
    return output, [(c, n) for c, n in found if convs[c] == norms[n] == 1]  # used once
