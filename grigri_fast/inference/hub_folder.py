"""A run as a folder in the layout of the Hugging Face hub, which other tools load.

``config.json``, ``model.safetensors`` and a model card, ``README.md``. A network of timm, or one
that timm computes alike, is loaded by ``timm.create_model("local-dir:FOLDER", pretrained=True)``,
another one of torchvision's by ``load_state_dict``; the card shows how. The folder is loaded in
this way and compared with the checkpoint before it takes its name.

Shapes: N images, C classes.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from .. import __version__
from ..config import TrainConfig, read_toml
from ..data import split
from ..errors import GrigriError
from ..models import factory, normalize, timm_networks
from ..models.hub import CARD, CONFIG, OURS, WEIGHTS
from ..models.normalize import Preprocessing
from ..runs import checkpoint as checkpoints
from ..runs import run_folder
from ..runs.checkpoint import ModelInfo
from ..runs.run_folder import CheckpointName
from ..runtime import files
from ..runtime.compute import Compute, require_one_of
from ..runtime.files import StrPath
from . import exporter, forward, model_card
from .exporter import MOST_DIFFERENCE, Exported
from .forward import Forward
from .model_card import Begun, Card

FOLDER = "hub"  # its name in the run folder
_FILES = {CONFIG, WEIGHTS, CARD}
_CHECKSUM = "sha256 of README.md"  # so that a card that someone has edited is not written over


def export(
    run: StrPath,
    *,
    out: StrPath | None = None,
    checkpoint: CheckpointName = "last",
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write a run's checkpoint as a folder, if what loads it computes what PyTorch computes.

    Args:
        run: the run folder.
        out: the folder, by default ``hub`` in the run folder. One that this function has written is
            replaced, unless something in it was added or edited.
        checkpoint, threads: as in :func:`predictor.load`.
        on_progress: called with the number of stages done and that of all.

    Raises:
        GrigriError: if no other tool has the network, the folder cannot be written or holds other
            files, or the probabilities differ by more than ``exporter.MOST_DIFFERENCE``.
    """
    require_one_of("--checkpoint", checkpoint, CheckpointName)
    folder = Path(run)
    path = run_folder.checkpoint_path(folder, checkpoint)
    out = folder / FOLDER if out is None else Path(out)
    _require_replaceable(out)
    compute = Compute.resolve("cpu", "fp32", threads)
    with compute.open():
        model, info = checkpoints.load(path, compute.device, torch.contiguous_format)
        info = info.for_others()
        exportable = _exportable(folder, path, model, info)
        images_NHWC, images = exporter.images_to_check(folder, info, compute)
        on_progress(1, 3)
        try:
            with files.unfinished_folder(out, replace=True) as unfinished:
                _write(unfinished, exportable, _card(folder, checkpoint, exportable))
                on_progress(2, 3)
                loaded, runtime = _read_back(unfinished, info)
                logits = forward.logits_of(model, compute, flip=info.flip_test)
                difference, sizes = exporter.compared(loaded, logits, images_NHWC)
                if not difference <= MOST_DIFFERENCE:  # NaN is not, either
                    raise GrigriError(
                        f"{path}: {info.arch} of {runtime} and grigri-fast differ by"
                        f" {difference:.2g} in a probability, more than {MOST_DIFFERENCE:g}, on"
                        f" {images}; nothing was written (use --format onnx or pt2)"
                    )
        except OSError as e:
            raise GrigriError(f"{out}: cannot be written: {e.strerror or e}") from e
    on_progress(3, 3)
    return Exported(out, info, runtime, images, sizes, difference)


@dataclass(frozen=True)
class _Exportable:
    """What is written: a network that another library has, too.

    Attributes:
        model: with timm's own description if it is one of timm's.
        options: of ``torchvision.models.get_model``; None for a network of timm.
    """

    model: nn.Module
    info: ModelInfo
    begun: Begun
    options: dict[str, Any] | None = None


def _exportable(folder: Path, path: Path, model: nn.Module, info: ModelInfo) -> _Exportable:
    """Return a run's network as another library has it.

    Raises:
        GrigriError: if none has it.
    """
    arch, num_classes = info.arch, len(info.class_names)
    config = TrainConfig(**read_toml(folder / run_folder.CONFIG))
    begun = _begun(arch, config.weights)
    if timm_networks.is_timm(arch):
        return _Exportable(model, info, begun)
    if not factory.is_of_torchvision(arch):
        raise GrigriError(
            f"{path}: {arch} is grigri-fast's own network, which no other tool loads: use --format"
            f" onnx or pt2"
        )
    twin = timm_networks.twin(arch, model, num_classes, info.size_px)
    if twin is not None:
        return _Exportable(twin, info, begun)
    options = factory.torchvision_options(arch, num_classes, info.built_px or info.size_px)
    return _Exportable(model, info, begun, options)


def _begun(arch: str, weights_from: str) -> Begun:
    """Return with which weights a run began."""
    if weights_from == "none":
        return Begun("none")
    licence = ""
    with contextlib.suppress(GrigriError):  # a folder that is gone
        licence = factory.licence_of(arch, weights_from)
    if weights_from != "imagenet":
        return Begun("file", licence)
    hub_id = timm_networks.hub_id(arch) if timm_networks.is_timm(arch) else ""
    return Begun("imagenet", licence, hub_id)


# ------------------------------------------------------------------------------ what is written


def _write(folder: Path, exportable: _Exportable, card: Card) -> None:
    """Write the three files into an empty folder."""
    model, info = exportable.model, exportable.info
    text = model_card.to_markdown(card)
    ours = {"version": __version__, _CHECKSUM: _checksum(text), **dataclasses.asdict(info)}
    about = {"label_names": info.class_names, OURS: ours}
    licence, preprocessing = exportable.begun.licence, Preprocessing(info.mean, info.std)
    if exportable.options is None:
        timm_networks.write_hub_folder(folder, model, info.size_px, preprocessing, licence, about)
    else:
        size = (3, info.size_px, info.size_px)
        data = {"input_size": size, "mean": info.mean, "std": info.std, "license": licence or None}
        torchvision = {"model": info.arch, "options": exportable.options}
        files.write_json(
            folder / CONFIG, {"torchvision": torchvision, "pretrained_cfg": data} | about
        )
        state = safetensors.torch.save(model.state_dict(), {"format": "pt"})
        files.write_atomic(folder / WEIGHTS, state)
    files.write_atomic(folder / CARD, text)
    (folder / WEIGHTS).chmod((folder / CARD).stat().st_mode)  # safetensors makes it the user's own


def _card(folder: Path, checkpoint: str, exportable: _Exportable) -> Card:
    """Return what the model card says."""
    info, parts, summary = exportable.info, {}, {}
    with contextlib.suppress(GrigriError):
        parts = {part: len(names) for part, names in split.names(folder / run_folder.SPLIT).items()}
    with contextlib.suppress(GrigriError):
        summary = files.read_json(folder / run_folder.SUMMARY)
    is_scored = checkpoint == "last" and summary.get("epochs") == info.epoch
    return Card(
        info=info,
        parts=parts,
        validation=summary["validation"] if is_scored and "validation" in summary else {},
        begun=exportable.begun,
        torchvision_options=exportable.options,
    )


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _require_replaceable(out: Path) -> None:
    """Raise GrigriError unless a folder may be written: there is none, or what was exported."""
    if not out.parent.is_dir():
        raise GrigriError(f"--out {out}: there is no folder {out.parent}")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise GrigriError(f"--out {out}: it is no folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if {path.name for path in out.iterdir()} == _FILES:
        with contextlib.suppress(GrigriError, ValueError, LookupError, TypeError):
            known = json.loads(files.read_text(out / CONFIG))[OURS][_CHECKSUM]
            if known == _checksum(files.read_text(out / CARD)):
                return
    raise GrigriError(
        f"--out {out}: this folder has files that are not from an export, or were edited since;"
        f" remove it, or name another one"
    )


# ---------------------------------------------------------------------------------- the check


def _read_back(folder: Path, info: ModelInfo) -> tuple[Forward, str]:
    """Return the function that a folder holds, from what is in it alone, and what computes it."""
    told = json.loads(files.read_text(folder / CONFIG))
    if "torchvision" in told:
        state = safetensors.torch.load_file(folder / WEIGHTS)
        about = told["torchvision"]
        model, runtime = factory.of_torchvision(about["model"], about["options"], state)
    else:
        model, runtime = timm_networks.load_hub_folder(folder)
    mean, std = (tuple(told["pretrained_cfg"][key]) for key in ("mean", "std"))

    @torch.inference_mode()
    def probabilities(images_NHWC: torch.Tensor) -> torch.Tensor:
        inputs_NCHW = normalize.normalize(images_NHWC, mean, std)
        logits_NC = model(inputs_NCHW)
        if info.flip_test:
            logits_NC = (logits_NC + model(inputs_NCHW.flip(3))) / 2
        return logits_NC.sigmoid()

    return probabilities, runtime
