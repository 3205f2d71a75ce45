"""The layers that compute the logits: found, replaced, started, and trained alone.

Most networks have one. Some of timm have two, one of them distilled, and the mean of their logits.
Shapes: C classes.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def heads(model: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """Return name and module of each layer that computes logits, in the network's order.

    Of a network of timm these are the ones that it names itself (several for distilled ones, such
    as DeiT's or LeViT's), of others the last linear or conv layer of all. A network of timm that
    was built without classes has none.
    """
    last = [_last_layer(module) for module in _classifiers(model)]
    found = {id(layer) for layer in last}
    return [
        (name, module)
        for name, module in model.named_modules()
        if id(module) in found and isinstance(module, nn.Linear | nn.Conv2d)
    ]


@contextlib.contextmanager
def inputs_taken(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list that gets what each head takes in, in the order of the passes made meanwhile.

    Each is float32 (N, D), a network's features: the mean over places where a head takes in some.
    """
    taken: list[torch.Tensor] = []

    def take(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        (one,) = inputs
        taken.append(one.float().mean((2, 3)) if one.ndim == 4 else one.float().flatten(1))

    hooks = [layer.register_forward_pre_hook(take) for _, layer in heads(model)]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


def replace(model: nn.Module, num_classes: int) -> None:
    """Put new, freshly initialised layers of ``num_classes`` outputs in the place of the heads."""
    for name, old in heads(model):
        if isinstance(old, nn.Linear):
            new: nn.Module = nn.Linear(old.in_features, num_classes)
        else:
            new = nn.Conv2d(old.in_channels, num_classes, (old.kernel_size[0], old.kernel_size[1]))
        model.set_submodule(name, new)


def start_bias_at_log_odds(model: nn.Module, frequency_C: NDArray[np.floating]) -> None:
    """Set the bias of each head so that the untrained network predicts the class frequencies.

    Frequencies are kept away from 0 and 1 by a thousandth, so that the log-odds are finite.
    """
    p = np.clip(frequency_C.astype(np.float64), 1e-3, 1 - 1e-3)
    for _, layer in heads(model):
        with torch.no_grad():
            layer.bias.copy_(torch.from_numpy(np.log(p / (1 - p))))  # type: ignore[union-attr]


def freeze_backbone(model: nn.Module) -> None:
    """Let only the heads be trained."""
    model.requires_grad_(False)
    for _, layer in heads(model):
        layer.requires_grad_(True)


def set_training(model: nn.Module, frozen_backbone: bool, frozen_norms: bool = False) -> None:
    """Switch to training mode.

    A frozen backbone stays in eval mode, its BatchNorm too, and so does each module all of whose
    parameters are frozen. With ``frozen_norms`` all BatchNorms do.
    """
    model.train(not frozen_backbone)
    for module in model.modules():
        parameters = list(module.parameters())
        is_frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
        if is_frozen or (frozen_norms and isinstance(module, nn.modules.batchnorm._BatchNorm)):
            module.eval()
    for _, layer in heads(model):
        layer.train()


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """Return the modules in each of which the last layer computes logits."""
    if not hasattr(model, "get_classifier"):  # not of timm
        return [model]
    # What the weights' record names is exact: RepViT's get_classifier returns one module with two
    # heads, VOLO's leaves out a head whose logits are added.
    names = model.pretrained_cfg.get("classifier")  # type: ignore[union-attr, operator]
    modules = dict(model.named_modules())
    named = [modules[name] for name in _several(names) if name in modules]
    return named or [m for m in _several(model.get_classifier()) if m is not None]  # type: ignore[operator]


def _several(found: Any) -> Iterable[Any]:
    return found if isinstance(found, tuple | list | nn.ModuleList) else (found,)


def _last_layer(module: nn.Module) -> nn.Module | None:
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None
