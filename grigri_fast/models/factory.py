"""Architectures, heads, weights and freezing. Knows nothing of data."""

import contextlib
import copy
import difflib
import re
import struct
import sys
import urllib.error
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from ..errors import GrigriError
from .networks import GrigriNet, SimpleConvNet, add_norms, draw_by_he

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
    """Return the names that ``--arch`` takes."""
    return [*_OURS, *torchvision.models.list_models(module=torchvision.models)]


def build(
    arch: str,
    num_classes: int,
    size_px: int,
    init: str = "default",
    train_norms: bool = False,
) -> nn.Module:
    """Return an untrained network with a head of ``num_classes`` logits, in fp32 on the CPU.

    Args:
        arch: name of the architecture.
        num_classes: size of the head.
        size_px: side of the input.
        init: for a network without norms, how its weights are drawn: ``default``, as its authors
            do; or ``he`` (see :func:`networks.draw_by_he`).
        train_norms: whether a network without norms gets some while it trains (see
            :func:`networks.add_norms`).

    Raises:
        GrigriError: for an unknown name, or images too small or of a side the network cannot take.
    """
    _check_name(arch)
    model = _plain(arch, num_classes, size_px)
    check_size(model, arch, size_px)
    if arch in _WITH_AUX:
        _drop_aux(model)
    if head(model)[1].bias is None:
        _replace_head(model, num_classes)
    if not any("Norm" in type(m).__name__ for m in model.modules()):
        if init == "he":
            draw_by_he(model)
        if train_norms:
            add_norms(model)
    return model


def build_pretrained(arch: str, num_classes: int, size_px: int, weights: str) -> nn.Module:
    """Return a network with loaded weights and a new head of ``num_classes`` logits.

    Args:
        arch: an architecture name.
        num_classes: size of the new head.
        size_px: side of the input.
        weights: ``imagenet`` (torchvision's default weights, from its cache or its download) or a
            file in torchvision's layout, ``.safetensors`` or ``.pth`` (read without executing
            code). Its head may have any number of classes and is replaced.

    Raises:
        GrigriError: if the weights cannot be loaded or do not fit; the message names the key.
    """
    _check_name(arch)
    model = _plain(arch, _IMAGENET_CLASSES, size_px)
    check_size(model, arch, size_px)
    if weights == "imagenet":
        state = _imagenet_state(arch)
        source = f"torchvision's weights of {arch}"
    else:
        state = read_state(Path(weights))
        source = f"--weights {weights}"
    head_name, _ = head(model)
    weight = state.get(f"{head_name}.weight")
    if weight is None or not weight.ndim or not len(weight):
        raise GrigriError(f"{source}: missing key {head_name}.weight (is it a {arch}?)")
    if len(weight) != _IMAGENET_CLASSES:
        model = _plain(arch, len(weight), size_px)
    if arch.startswith("densenet"):
        state = {_OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in state.items()}
    if arch.startswith("vit_"):
        state = _fit_positions(model, state, size_px)
    _load(model, state, source)
    if arch in _WITH_AUX:
        _drop_aux(model)
    _replace_head(model, num_classes)
    return model


def head(model: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of the layer that computes the logits: the last linear or conv one."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def start_bias_at_log_odds(model: nn.Module, frequency_C: NDArray) -> None:
    """Set the head's bias so that the untrained network predicts the class frequencies.

    Frequencies are kept away from 0 and 1 by a thousandth, so that the log-odds are finite.
    """
    _, layer = head(model)
    p = np.clip(frequency_C.astype(np.float64), 1e-3, 1 - 1e-3)
    with torch.no_grad():
        layer.bias.copy_(torch.from_numpy(np.log(p / (1 - p))))


def freeze_backbone(model: nn.Module) -> None:
    """Let only the head be trained."""
    model.requires_grad_(False)
    head(model)[1].requires_grad_(True)


def set_training(model: nn.Module, frozen_backbone: bool) -> None:
    """Switch to training mode; a frozen backbone stays in eval mode, its BatchNorm too."""
    model.train(not frozen_backbone)
    head(model)[1].train()


# ------------------------------------------------------------------------------ weight files


def load_state(model: nn.Module, state: dict[str, torch.Tensor], strict: bool = True) -> None:
    """Load a state dict, which may be a plain dictionary of a safetensors file.

    PyTorch stores module versions beside the tensors. A safetensors file has no place for them, and
    MNASNet does not load without them: the model's own versions are used where there are none.

    Raises:
        RuntimeError: as ``load_state_dict``, if keys or shapes do not fit.
    """
    if not hasattr(state, "_metadata"):
        state = OrderedDict(state)
        state._metadata = model.state_dict()._metadata
    model.load_state_dict(state, strict=strict)


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.safetensors`` or ``.pth`` file, without executing code from it.

    Raises:
        GrigriError: if it cannot be read or holds anything but named tensors.
    """
    if not file.is_file():
        raise GrigriError(f"--weights {file}: no such file (imagenet, none, or a file are taken)")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused anyway
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, ValueError, safetensors.SafetensorError, struct.error) as e:
        raise GrigriError(f"--weights {file}: cannot be read: {e}") from e
    except Exception as e:  # torch.load raises many kinds for what is no weight file
        raise GrigriError(
            f"--weights {file}: not a file of weights alone (torch.save of a state dict, or"
            f" .safetensors)"
        ) from e
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]  # as torchvision's reference training script saves it
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise GrigriError(f"--weights {file}: expected a state dict, names with tensors")
    return state


def _imagenet_state(arch: str) -> dict[str, torch.Tensor]:
    """Return torchvision's default weights from its cache, or download them into it."""
    if arch in _OURS:
        raise GrigriError(f"there are no ImageNet weights for {arch}; use --weights none or a file")
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = weights.url.rsplit("/", 1)[-1]
    try:
        with contextlib.redirect_stderr(sys.stdout):  # older torch.hubs announce the download there
            return torch.hub.load_state_dict_from_url(
                weights.url, map_location="cpu", check_hash=True, weights_only=True, progress=False
            )
    except (urllib.error.URLError, OSError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:120]
        raise GrigriError(
            f"the ImageNet weights of {arch} could not be downloaded ({reason}): fetch"
            f" {weights.url} elsewhere and put it at {folder / name} (or name it with --weights),"
            f" or train from scratch with --weights none"
        ) from e


def weight_files(arch: str) -> list[str]:
    """Return the names of torchvision's weight files of an architecture, its default the last."""
    if arch in _OURS:
        return []
    weights = torchvision.models.get_model_weights(arch)
    urls = [w.url for w in weights if w is not weights.DEFAULT] + [weights.DEFAULT.url]
    return [url.rsplit("/", 1)[-1] for url in urls]


def _load(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load ``state``; raise GrigriError that names the first missing, extra or misshapen key."""
    wanted = model.state_dict()
    # Files from before PyTorch 0.4.1 lack BatchNorm's step counters, which nothing reads.
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in wanted]
    for kind, keys in (("missing", missing), ("unexpected", extra)):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise GrigriError(f"{source}: {kind} key {keys[0]}{more}")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise GrigriError(
                f"{source}: {key} has shape {tuple(tensor.shape)},"
                f" expected {tuple(wanted[key].shape)}"
            )
    load_state(model, state, strict=False)


# ----------------------------------------------------------------------------------- helpers


def _check_name(arch: str) -> None:
    if arch not in architectures():
        near = difflib.get_close_matches(arch, architectures(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise GrigriError(f"--arch {arch}: no such architecture{hint}")


def check_size(model: nn.Module, arch: str, size_px: int, flag: str = "--size") -> None:
    """Raise GrigriError, naming ``flag``, if the network cannot take images of this size.

    Shapes alone go through a copy without data, so it costs little.
    """
    trial = copy.deepcopy(model).to("meta").eval()
    try:
        trial(torch.empty(2, 3, size_px, size_px, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as e:
        reason = str(e).splitlines()[0] if str(e) else "it is too small"
        raise GrigriError(f"--arch {arch} cannot take {flag} {size_px}: {reason}") from e


def _plain(arch: str, num_classes: int, size_px: int) -> nn.Module:
    """Return the network as torchvision makes it."""
    if arch == _SIMPLE:
        if size_px < 16:
            raise GrigriError(f"--arch {arch} cannot take --size {size_px}: it needs 16 or more")
        return SimpleConvNet(num_classes, size_px)
    if arch == _GRIGRI:
        return GrigriNet(num_classes)
    options: dict[str, object] = {}
    if arch.startswith("vit_"):
        options["image_size"] = size_px
    if arch.startswith("maxvit"):
        options["input_size"] = (size_px, size_px)
    if arch in _WITH_AUX:
        options |= {"aux_logits": True, "init_weights": True, "transform_input": True}
    try:
        model = torchvision.models.get_model(arch, num_classes=num_classes, **options)
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


def _replace_head(model: nn.Module, num_classes: int) -> None:
    """Put a new, freshly initialised layer of ``num_classes`` outputs in the head's place."""
    name, old = head(model)
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, num_classes)
    else:
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size)
    model.set_submodule(name, new)


def _fit_positions(
    model: nn.Module, state: dict[str, torch.Tensor], size_px: int
) -> dict[str, torch.Tensor]:
    """Return a vision transformer's weights with position embeddings for another image size."""
    key = "encoder.pos_embedding"
    if key not in state or state[key].shape == model.state_dict()[key].shape:
        return state
    return dict(
        torchvision.models.vision_transformer.interpolate_embeddings(
            image_size=size_px, patch_size=model.patch_size, model_state=state
        )
    )
