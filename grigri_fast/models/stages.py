"""The stages of a network, from its input to its head: frozen, or trained at rates of their own.

What a stage is depends on the network. Of timm's networks these are the coarse groups of
``group_matcher``, timm's own for layer-wise rates: the stem, then stages of blocks or, of
transformers, blocks. Of the others they are the parts that the network is a chain of. The layers
that compute the logits (see :func:`heads.heads`) are in none.
"""

import torch
from torch import nn

from ..errors import GrigriError
from . import heads, timm_networks

Stage = dict[str, nn.Parameter]  # its parameters, by name

# A child with this share of a network's tensors is not a stage but holds the stages. Of ResNet152,
# layer3 has 70 %; of VGG11, features have 80 %.
_HOLDS_STAGES = 0.75


def stages(model: nn.Module) -> list[Stage]:
    """Return the stages of a network, from the input to the head, each with its parameters."""
    of_heads = {id(p) for _, layer in heads.heads(model) for p in layer.parameters()}
    number_of = timm_networks.group_numbers(model) or _numbers_of_parts(model, of_heads)
    found: dict[int, Stage] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in of_heads:
            found.setdefault(number_of[name], {})[name] = parameter
    return [found[number] for number in sorted(found)]


def num_to_freeze(model: nn.Module, device: torch.device) -> int:
    """Return how many stages fine-tuning leaves as they are, where nobody says how many.

    On a CPU three quarters: EfficientNet-Lite2 then trains three times as fast, and the probe's
    micro-F1 of 0.756 rises to 0.787 in two epochs (benchmarks/README.md). On a GPU none.
    """
    return 3 * len(stages(model)) // 4 if device.type == "cpu" else 0


def freeze(model: nn.Module, num_stages: int) -> None:
    """Let the first stages stay as they are; :func:`heads.set_training` keeps them in eval mode.

    Nothing before the first trained stage needs a gradient, so there is no backward pass through
    it, and no activation of it is kept.

    Raises:
        GrigriError: if the network has fewer stages.
    """
    found = stages(model)
    if num_stages > len(found):
        raise GrigriError(
            f"--freeze-stages {num_stages}: the network has {len(found)} stages before its head;"
            f" to train the head alone: --freeze-backbone"
        )
    for stage in found[:num_stages]:
        for parameter in stage.values():
            parameter.requires_grad_(False)


def in_words(model: nn.Module, num_frozen: int) -> str:
    """Return which stages are frozen, and which is the first that is trained."""
    found = stages(model)
    words = f"{num_frozen} of {len(found)} stages stay as they are"
    if num_frozen == len(found):
        return words
    return f"{words}; trained from {next(iter(found[num_frozen]))} on"


def _numbers_of_parts(model: nn.Module, of_heads: set[int]) -> dict[str, int]:
    """Return the number of the part that each parameter is in, by the parameter's name.

    A layer (a convolution, not a norm) that stands alone in the chain is a part; a norm and a
    parameter of the chain itself belong to the part before, or to the first one.
    """
    numbers: dict[str, int] = {}
    num_parts = 0
    for prefix, module, is_chain in _chain(model, of_heads):
        is_layer = isinstance(module, nn.Linear | nn.Conv2d)
        is_part = not is_chain and (is_layer or any(True for _ in module.children()))
        num_parts += is_part
        for name, _ in module.named_parameters(prefix, recurse=not is_chain):
            numbers[name] = max(num_parts, 1)  # what is before the first part is in it
    return numbers


def _chain(model: nn.Module, of_heads: set[int]) -> list[tuple[str, nn.Module, bool]]:
    """Return name and module of the parts of a network in order, without the heads.

    The third value says that a module is only what holds parts: its own parameters count.
    """
    num_all = sum(id(p) not in of_heads for p in model.parameters())
    found: list[tuple[str, nn.Module, bool]] = []

    def add(prefix: str, module: nn.Module) -> None:
        parameters = list(module.parameters())
        num = sum(id(p) not in of_heads for p in parameters)
        children = [(n, m) for n, m in module.named_children() if any(True for _ in m.parameters())]
        has_head = num < len(parameters)
        if not num:
            return
        if children and (has_head or (num >= _HOLDS_STAGES * num_all and len(children) > 1)):
            found.append((prefix, module, True))
            for name, child in children:
                add(f"{prefix}.{name}" if prefix else name, child)
        else:
            found.append((prefix, module, False))

    add("", model)
    return found
