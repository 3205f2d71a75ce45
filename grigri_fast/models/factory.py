"""Networks by name: built, with or without weights. Knows nothing of data.

torchvision is imported when one of its networks is asked for: it takes as long as PyTorch itself.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import GrigriError
from ..runtime import imports
from . import heads, hub, timm_networks, weights
from .networks import GrigriNet, SimpleConvNet, add_norms, draw_by_he
from .normalize import Preprocessing
from .weights import Found, State

_SIMPLE = "simple"
_GRIGRI = "grigri"
_OURS = (_GRIGRI, _SIMPLE)
_IMAGENET_CLASSES = 1000
# The weight files of these hold auxiliary classifiers, which are built, loaded and removed. Their
# published weights expect inputs on another scale, which transform_input takes care of.
_WITH_AUX = ("googlenet", "inception_v3")
# The published DenseNets have keys like denselayer1.norm.1.weight for denselayer1.norm1.weight.
_OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def architectures() -> list[str]:
    """Return the names that ``--arch`` takes, without those of timm."""
    torchvision = imports.torchvision()
    return [*_OURS, *torchvision.models.list_models(module=torchvision.models)]


def build(
    arch: str,
    num_classes: int,
    size_px: int,
    init: str = "default",
    train_norms: bool = False,
    *,
    is_known_to_fit: bool = False,
) -> nn.Module:
    """Return an untrained network with a head of ``num_classes`` logits, in fp32 on the CPU.

    It carries its preprocessing, as ``preprocessing``.

    Args:
        arch: name of the architecture; ``timm/NAME`` for one of timm's.
        num_classes: size of the head.
        size_px: side of the input.
        init: for a network without norms, how its weights are drawn: ``default``, as its authors
            do; or ``he`` (see :func:`networks.draw_by_he`).
        train_norms: whether a network without norms gets some while it trains (see
            :func:`networks.add_norms`).
        is_known_to_fit: whether it need not be tried that it takes such images: it was trained.

    Raises:
        GrigriError: for an unknown name, or images too small or of a side the network cannot take.
    """
    check_name(arch)
    model = _plain(arch, num_classes, size_px)
    if not is_known_to_fit:
        check_size(model, arch, size_px)
    if arch in _WITH_AUX:
        _drop_aux(model)
    if any(layer.bias is None for _, layer in heads.heads(model)):
        heads.replace(model, num_classes)
    if timm_networks.is_timm(arch):
        return model
    if not any("Norm" in type(m).__name__ for m in model.modules()):
        if init == "he":
            draw_by_he(model)
        if train_norms:
            add_norms(model)
    return model


def build_pretrained(
    arch: str,
    num_classes: int,
    size_px: int,
    weights_from: str,
    log: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """Return a network with loaded weights and a new head of ``num_classes`` logits.

    It carries the preprocessing that the weights were trained with, as ``preprocessing``.

    Args:
        arch: an architecture name; ``timm/NAME`` for one of timm's.
        num_classes: size of the new head.
        size_px: side of the input.
        weights_from: ``imagenet`` (an installed package's, torchvision's or timm's default weights,
            from the cache or downloaded into it) or a file in torchvision's layout, or timm's,
            ``.safetensors`` or ``.pth`` (read without executing code), which may be a checkpoint of
            ours, or a folder in the layout of the hub (see :mod:`hub`). Its head may have any
            number of classes and is replaced.
        log: takes lines about where the weights come from, and about their licence if it forbids
            commercial use.

    Raises:
        GrigriError: if the weights cannot be loaded or do not fit; the message names the key.
    """
    check_name(arch)
    if weights_from != "imagenet":
        found = weights.read(Path(weights_from), arch)
    elif arch in _OURS:
        raise GrigriError(f"there are no ImageNet weights for {arch}; use --weights none or a file")
    elif timm_networks.is_timm(arch):
        found = timm_networks.imagenet(arch, log)
    else:
        found = weights.of_torchvision(arch)
    if timm_networks.is_timm(arch):
        model = timm_networks.load(arch, num_classes, size_px, found)
        check_size(model, arch, size_px)
    else:
        model = _load_plain(arch, num_classes, size_px, found)
    if found.preprocessing is not None:
        model.preprocessing = found.preprocessing
    if weights_from == "imagenet":
        log(f"weights of {arch}: {found.source}")
    if weights.forbids_commerce(found.licence):
        log(f"the weights of {arch} are under {found.licence}, which forbids commercial use")
    return model


def _load_plain(arch: str, num_classes: int, size_px: int, found: Found) -> nn.Module:
    """Return a network of ours or torchvision's with weights and a new head."""
    model = _plain(arch, _IMAGENET_CLASSES, size_px)
    check_size(model, arch, size_px)
    state = found.state
    ((head_name, _),) = heads.heads(model)
    weight = state.get(f"{head_name}.weight")
    if weight is None or not weight.ndim or not len(weight):
        raise GrigriError(f"{found.source}: missing key {head_name}.weight (is it a {arch}?)")
    if len(weight) != _IMAGENET_CLASSES:
        model = _plain(arch, len(weight), size_px)
    if arch.startswith("densenet"):
        state = {_OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in state.items()}
    if arch.startswith("vit_"):
        state = _fit_positions(model, state, size_px)
    weights.load_all(model, replace(found, state=state))
    if arch in _WITH_AUX:
        _drop_aux(model)
    heads.replace(model, num_classes)
    return model


def licence_of(arch: str, weights_from: str) -> str:
    """Return the licence of what :func:`build_pretrained` loads, "" if there is none or unknown."""
    if weights_from == "none":
        return ""
    if weights_from != "imagenet":
        place = Path(weights_from)
        return hub.read(place).licence if place.is_dir() else ""
    if timm_networks.is_timm(arch):
        return timm_networks.licence_of(arch)
    return weights.licence_of_torchvision(arch)


def is_of_torchvision(arch: str) -> bool:
    """Return whether a network, of a name that is known, is one of torchvision's."""
    return arch not in _OURS and not timm_networks.is_timm(arch)


def torchvision_options(arch: str, num_classes: int, size_px: int) -> dict[str, Any]:
    """Return the options with which ``torchvision.models.get_model`` makes an exported network."""
    options: dict[str, Any] = {"num_classes": num_classes}
    if arch.startswith("vit_"):
        options["image_size"] = size_px
    if arch.startswith("maxvit"):
        options["input_size"] = (size_px, size_px)
    if arch in _WITH_AUX:
        options |= {"aux_logits": False, "init_weights": False, "transform_input": True}
    return options


def of_torchvision(arch: str, options: dict[str, Any], state: State) -> tuple[nn.Module, str]:
    """Return torchvision's own network with weights in eval mode, and torchvision's version.

    Raises:
        GrigriError: if they do not fit it.
    """
    torchvision = imports.torchvision()
    model = torchvision.models.get_model(arch, **options)
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as e:  # MNASNet wants a version, which such a file has not
        reason = f"torchvision's {arch} does not take plain weights: {e}"[:200]
        raise GrigriError(f"{reason} (use --format onnx or pt2)") from e
    return model.eval(), f"torchvision {torchvision.__version__}"


def weight_files(arch: str) -> list[str]:
    """Return the names of torchvision's weight files of an architecture, its default the last."""
    if arch in _OURS or timm_networks.is_timm(arch):
        return []
    return weights.files_of_torchvision(arch)


# ----------------------------------------------------------------------------------- helpers


def check_name(arch: str, flag: str = "--arch") -> None:
    """Raise GrigriError, naming ``flag``, unless there is an architecture of that name."""
    if timm_networks.is_timm(arch):
        timm_networks.require(arch, flag)
    elif arch not in _OURS and arch not in architectures():
        raise timm_networks.unknown(arch, architectures(), flag)


# (architecture, the side it was built for, a side of images) that have been found to fit.
_FITTING: set[tuple[str, int, int]] = set()


def check_size(
    model: nn.Module, arch: str, size_px: int, flag: str = "--size", built_px: int | None = None
) -> None:
    """Raise GrigriError, naming ``flag``, if the network cannot take images of this size.

    Shapes alone go through a copy without data, once in a process for an architecture and a size.

    Args:
        model: the network.
        arch: the name that it was built by.
        size_px: side of the images.
        flag: the option that said so.
        built_px: the side that the network was built for, if that is another one.
    """
    key = (arch, built_px or size_px, size_px)
    if key in _FITTING:
        return
    trial = copy.deepcopy(model).to("meta").eval()
    try:
        output = trial(torch.empty(2, 3, size_px, size_px, device="meta"))
    except (RuntimeError, AssertionError, ValueError, TypeError) as e:
        reason = str(e).splitlines()[0] if str(e) else "it is too small"
        raise GrigriError(f"--arch {arch} cannot take {flag} {size_px}: {reason}") from e
    if not isinstance(output, torch.Tensor) or output.ndim != 2:  # gemma4_vit, naflexvit's encoders
        raise GrigriError(f"--arch {arch} is no classification network: it has no logits")
    _FITTING.add(key)


def _plain(arch: str, num_classes: int, size_px: int) -> nn.Module:
    """Return the network as its authors make it, with its preprocessing."""
    if timm_networks.is_timm(arch):
        return timm_networks.build(arch, num_classes, size_px)
    if arch == _SIMPLE:
        if size_px < 16:
            raise GrigriError(f"--arch {arch} cannot take --size {size_px}: it needs 16 or more")
        model: nn.Module = SimpleConvNet(num_classes, size_px)
    elif arch == _GRIGRI:
        model = GrigriNet(num_classes)
    else:
        model = _of_torchvision(arch, num_classes, size_px)
    model.preprocessing = Preprocessing()  # ImageNet's: what all weights of torchvision have
    return model


def _of_torchvision(arch: str, num_classes: int, size_px: int) -> nn.Module:
    options: dict[str, object] = {}
    if arch.startswith("vit_"):
        options["image_size"] = size_px
    if arch.startswith("maxvit"):
        options["input_size"] = (size_px, size_px)
    if arch in _WITH_AUX:
        options |= {"aux_logits": True, "init_weights": True, "transform_input": True}
    try:
        model = imports.torchvision().models.get_model(arch, num_classes=num_classes, **options)
    except (ValueError, AssertionError) as e:
        raise GrigriError(f"--arch {arch} cannot take --size {size_px}: {e}") from e
    if arch.startswith("squeezenet"):
        model.classifier[2] = nn.Identity()  # a ReLU there would cut off every negative logit
    return model


def _drop_aux(model: nn.Module) -> None:
    model.aux_logits = False
    for name in ("AuxLogits", "aux1", "aux2"):
        if hasattr(model, name):
            setattr(model, name, None)


def _fit_positions(model: nn.Module, state: State, size_px: int) -> State:
    """Return a vision transformer's weights with position embeddings for another image size."""
    key = "encoder.pos_embedding"
    if key not in state or state[key].shape == model.state_dict()[key].shape:
        return state
    return dict(
        imports.torchvision().models.vision_transformer.interpolate_embeddings(
            image_size=size_px, patch_size=model.patch_size, model_state=state
        )
    )
