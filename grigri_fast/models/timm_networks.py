"""Networks of timm, by the name ``timm/NAME``; timm is imported when such a name is used.

https://huggingface.co/docs/timm. A name may end with the tag of one of its weights, like
``timm/vit_tiny_patch16_224.augreg_in21k``.
"""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..errors import GrigriError
from ..runtime import imports, streams
from . import heads, weights
from .normalize import Preprocessing
from .weights import Found

PREFIX = "timm/"


def is_timm(arch: str) -> bool:
    """Return whether a name is one of timm's networks."""
    return arch.startswith(PREFIX)


def names() -> list[str]:
    """Return the names of all networks, without tags."""
    return [PREFIX + name for name in _timm().list_models()]


def exists(arch: str) -> bool:
    """Return whether there is a network of that name; its tag, if it has one, must be known."""
    timm, name = _timm(), arch.removeprefix(PREFIX)
    if not timm.is_model(name):
        return False
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        return False
    return True


def require(arch: str, flag: str = "--arch") -> None:
    """Raise GrigriError, naming ``flag``, for an unknown name; the message names near ones."""
    if exists(arch):
        return
    known = [*tags(arch.split(".")[0]), *names()]
    raise unknown(arch, known, flag)


def unknown(arch: str, known: Sequence[str], flag: str) -> GrigriError:
    """Return the error about an unknown name."""
    near = difflib.get_close_matches(arch, known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return GrigriError(f"{flag} {arch}: no such architecture{hint}")


def tags(arch: str) -> list[str]:
    """Return the names of a network with each of its weights' tags."""
    from timm.models import get_arch_pretrained_cfgs

    return [PREFIX + name for name in get_arch_pretrained_cfgs(arch.removeprefix(PREFIX))]


def config_of(arch: str) -> Any:
    """Return what timm knows of a network's weights: sizes, mean and std, licence, address."""
    timm = _timm()
    return timm.get_pretrained_cfg(arch.removeprefix(PREFIX)) or timm.models.PretrainedCfg()


def own_size(arch: str) -> int:
    """Return the side of the images that a network's weights were trained at.

    Raises:
        GrigriError: for an unknown name.
    """
    require(arch)
    return int(config_of(arch).input_size[-1])


def build(arch: str, num_classes: int, size_px: int) -> nn.Module:
    """Return an untrained network with its preprocessing, in fp32 on the CPU.

    Raises:
        GrigriError: if it cannot take images of this size.
    """
    return _create(arch, size_px, num_classes=num_classes)


def load(arch: str, num_classes: int, size_px: int, found: Found) -> nn.Module:
    """Return a network with the weights that were found, and new heads.

    timm itself fits weights in: it renames keys of other layouts, and interpolates position
    embeddings for another image size.

    Raises:
        GrigriError: if they do not fit; the message names a key.
    """
    timm = _timm()
    state = timm.models.clean_state_dict(found.state)
    if not state:  # timm would look for others
        raise GrigriError(f"{found.source} holds no weights")
    config = config_of(arch)
    classifiers = heads.heads(_create(arch, size_px, num_classes=2))
    weight = state.get(f"{classifiers[0][0]}.weight") if classifiers else None
    num_stored = config.num_classes if weight is None or not weight.ndim else len(weight)
    overlay = {"state_dict": state, "num_classes": num_stored, "label_offset": 0}
    try:
        model = _create(
            arch, size_px, num_classes=num_stored, pretrained=True, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, LookupError, ValueError, AttributeError, AssertionError, TypeError) as e:
        reason = " ".join(str(e).split()).replace("Error(s) in loading state_dict for ", "")
        raise GrigriError(f"{found.source} does not fit {arch}: {reason[:200]}") from e
    model.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr, operator]
    if heads.heads(model):
        heads.replace(model, num_classes)
        model.num_classes = num_classes  # type: ignore[assignment]
    else:  # weights of a backbone alone
        model.reset_classifier(num_classes)  # type: ignore[operator]
    return model


def group_numbers(model: nn.Module) -> dict[str, int] | None:
    """Return the number of the group, from the input on, that each parameter of a network is in.

    Returns:
        The numbers by the parameters' names; those behind all groups, like a last norm, are in the
        last one. None for a network that is not timm's, or for which timm has no groups.
    """
    if not hasattr(model, "group_matcher"):
        return None
    from timm.models import group_parameters

    try:
        matcher = model.group_matcher(coarse=True)  # type: ignore[operator]
    except (AssertionError, NotImplementedError, TypeError, AttributeError):
        return None
    of_classifier = {f"{name}.weight" for name, _ in heads.heads(model)}
    numbers = dict(group_parameters(model, matcher, reverse=True))
    last = max(numbers.values())
    if last and of_classifier and all(numbers.get(name) == last for name in of_classifier):
        numbers = {name: min(number, last - 1) for name, number in numbers.items()}
    return numbers


def imagenet(arch: str, log: Callable[[str], None]) -> Found:
    """Return a network's pretrained weights: a package's, those in the hub's cache, or a download.

    ``log`` takes a line before a download, which tries for half a minute where there is no network.

    Raises:
        GrigriError: if there are none, or they cannot be had.
    """
    config = config_of(arch)
    packaged = weights.in_package(arch)
    if packaged is not None:
        return weights.of_package(*packaged, _create(arch, config.input_size[-1]).state_dict())
    if not (config.hf_hub_id or config.url):
        raise GrigriError(f"timm has no weights for {arch}; use --weights none or a file")
    source, file = _in_cache(config) or ("", None)
    if file is None:
        log(f"downloading the weights of {arch}")
        source, file = _downloaded(arch, config)
    return Found(weights.read_state(file), source, licence=config.license or "")


# ------------------------------------------------------------- folders in the layout of the hub

# What timm's record of a network's own weights says of them, and of nothing that follows.
_OF_ORIGIN = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")


def twin(arch: str, model: nn.Module, num_classes: int, size_px: int) -> nn.Module | None:
    """Return timm's network of the same name if it computes the same with the same weights.

    So it is for torchvision's ResNets, ResNeXts, Wide ResNets and DenseNets.

    Args:
        arch: a name of torchvision's.
        model: that network, in eval mode on the CPU.
        num_classes: size of its head.
        size_px: side of the images.
    """
    if not _timm().is_model(arch):
        return None
    state = model.state_dict()
    other = _create(PREFIX + arch, size_px, num_classes=num_classes)
    shapes = [{k: v.shape for k, v in some.items()} for some in (state, other.state_dict())]
    if shapes[0] != shapes[1]:
        return None
    other.load_state_dict(state)
    images_NCHW = torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = torch.allclose(model(images_NCHW), other.eval()(images_NCHW), rtol=1e-3, atol=1e-4)
    return other if same else None


def write_hub_folder(
    folder: Path,
    model: nn.Module,
    size_px: int,
    preprocessing: Preprocessing,
    licence: str,
    about: dict[str, Any],
) -> None:
    """Write ``config.json`` and ``model.safetensors`` as timm does for the hub.

    Args:
        folder: to write into.
        model: a network of timm, made by this module, with contiguous weights.
        size_px: side of the images that it evaluates; they are squeezed to it whole.
        preprocessing: of its input.
        licence: of the weights that it began with, "" if there are none or it is unknown.
        about: more entries, like ``label_names``.

    Raises:
        GrigriError: if timm cannot describe the network, or it cannot be written.
    """
    from timm.models import save_for_hf

    own = cast(dict[str, Any], model.pretrained_cfg)
    config = {k: v for k, v in own.items() if k not in _OF_ORIGIN}
    model.pretrained_cfg = config | ({"license": licence} if licence else {})  # type: ignore[assignment]
    data = {
        "input_size": (3, size_px, size_px),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }
    try:
        with streams.without_logs():
            save_for_hf(
                model, str(folder), model_config=about, safe_serialization=True, data_config=data
            )
    except (ValueError, AttributeError, AssertionError) as e:
        raise GrigriError(f"timm cannot describe the network for the hub: {e}") from e
    except weights.SafetensorError as e:  # a full disk
        raise GrigriError(f"the weights cannot be written: {e}") from e


def load_hub_folder(folder: Path) -> tuple[nn.Module, str]:
    """Return the network in a folder in eval mode, as timm loads it, and timm with its version.

    Raises:
        GrigriError: if timm cannot load it.
    """
    timm = _timm()
    try:
        with streams.without_logs():
            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, LookupError, ValueError, AttributeError, AssertionError, TypeError) as e:
        raise GrigriError(f"timm cannot load what was exported: {e}"[:300]) from e
    return model.eval(), f"timm {timm.__version__}"


def licence_of(arch: str) -> str:
    """Return the licence of a network's own weights, "" if timm does not know it."""
    return config_of(arch).license or ""


def hub_id(arch: str) -> str:
    """Return the repository of the weights that :func:`imagenet` returns, "" for a package's."""
    return "" if weights.in_package(arch) else config_of(arch).hf_hub_id or ""


# ------------------------------------------------------------------------------- helpers


def _timm() -> Any:
    with imports.heavy():
        import timm
    return timm


def _create(arch: str, size_px: int, **options: Any) -> nn.Module:
    """Return timm's network, with its preprocessing."""
    config = config_of(arch)
    if config.fixed_input_size:
        options["img_size"] = size_px
    try:
        with streams.without_logs():
            model = _timm().create_model(arch.removeprefix(PREFIX), **options)
    except (AssertionError, TypeError, ValueError) as e:
        if options.get("pretrained"):
            raise
        reason = str(e).splitlines()[0] if str(e) else "it is of another kind"
        raise GrigriError(f"--arch {arch} cannot take --size {size_px}: {reason}") from e
    mean, std = tuple(config.mean), tuple(config.std)
    model.preprocessing = Preprocessing(mean, std)
    return model


def _file_names(config: Any) -> list[str]:
    """Return the names that the weights' file may have in the hub."""
    return (
        [config.hf_hub_filename]
        if config.hf_hub_filename
        else [
            "model.safetensors",
            "pytorch_model.bin",
        ]
    )


def _in_cache(config: Any) -> tuple[str, Path] | None:
    """Return in words where weights lie in a cache, and their file."""
    from huggingface_hub import try_to_load_from_cache

    for name in _file_names(config) if config.hf_hub_id else ():
        found = try_to_load_from_cache(config.hf_hub_id, name)
        if isinstance(found, str):
            return f"the hub's cache ({found})", Path(found)
    places = [_by_hand(config)] if config.hf_hub_id else []
    places += [_of_url(config)] if config.url else []
    for file in places:
        if file.is_file():
            return f"timm's cache ({file})", file
    return None


def _by_hand(config: Any) -> Path:
    """Return where a file of the hub may be put that was fetched elsewhere."""
    name = config.hf_hub_id.rpartition("/")[2]
    return _checkpoints() / f"{name}{Path(_file_names(config)[0]).suffix}"


def _of_url(config: Any) -> Path:
    """Return where timm stores weights that are not in the hub."""
    return _checkpoints() / config.url.rpartition("/")[2]


def _checkpoints() -> Path:
    """Return torchvision's cache, which is timm's too."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _downloaded(arch: str, config: Any) -> tuple[str, Path]:
    """Download weights into the cache; return where from, in words, and their file."""
    if config.hf_hub_id:
        return _from_hub(arch, config)
    place = _of_url(config)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(config.url, str(place), progress=False)
    except (OSError, RuntimeError) as e:
        raise weights.not_downloaded(arch, e, config.url, place) from e
    return f"a download ({config.url})", place


def _from_hub(arch: str, config: Any) -> tuple[str, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they would go to stderr, which is for errors
    address = f"https://huggingface.co/{config.hf_hub_id}"
    error: BaseException = GrigriError("it has no file of a known name")
    for name in _file_names(config):
        try:
            with streams.without_logs():
                return f"a download ({address})", Path(hf_hub_download(config.hf_hub_id, name))
        except LocalEntryNotFoundError as e:  # no connection
            error = e.__cause__ or e
            break
        except EntryNotFoundError as e:  # perhaps it has the other one
            error = e
        except Exception as e:  # the hub's client raises those of its web library, too
            error = e
            break
    url = f"{address}/resolve/main/{_file_names(config)[0]}"
    raise weights.not_downloaded(arch, error, url, _by_hand(config)) from error
