"""Folders in the layout of the Hugging Face hub, as weights to begin with.

Such a folder is what ``timm.models.save_for_hf`` and ``export --format hub`` write, or a download
of a repository of timm's: ``config.json`` beside ``model.safetensors`` or ``pytorch_model.bin``.
https://huggingface.co/docs/timm/en/hf_hub
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GrigriError
from ..runtime import files
from .normalize import Preprocessing

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OURS = "grigri-fast"  # what export adds to config.json
_NAMES = (WEIGHTS, "pytorch_model.bin", "pytorch_model.pth", "model.pth")  # in timm's order
_MOST_BYTES = 2**26  # of config.json: it may name many thousand classes


@dataclass(frozen=True)
class HubFolder:
    """What a folder says of the network in it.

    Attributes:
        path: the folder.
        file: its weights.
        arch: architecture name, as ``--arch`` takes it.
        size_px: side of its images; None if it does not say.
        preprocessing: with which it was trained; None if it does not say.
        licence: of its weights; "" if it does not say.
    """

    path: Path
    file: Path
    arch: str
    size_px: int | None
    preprocessing: Preprocessing | None
    licence: str

    def require(self, arch: str) -> None:
        """Raise GrigriError unless its network is the one of this name, whatever the tag.

        Networks of one name in timm and torchvision may have the same weights (ResNet's).
        """
        name, given = (a.removeprefix("timm/").partition(".")[0] for a in (self.arch, arch))
        if name != given:
            raise GrigriError(
                f"--weights {self.path} holds {self.arch}, not --arch {arch} (leave --arch out, or"
                f" name the file itself: --weights {self.file})"
            )


def read(folder: Path) -> HubFolder:
    """Return what a folder says of its network; its weights are not read.

    Raises:
        GrigriError: if it lacks a file, or ``config.json`` names no network.
    """
    config = _config(folder / CONFIG, folder)
    file = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if file is None:
        raise GrigriError(f"--weights {folder}: there is no {' or '.join(_NAMES[:2])} in it")
    ours = config.get(OURS)
    name = config.get("architecture")
    arch = f"timm/{name}" if isinstance(name, str) else isinstance(ours, dict) and ours.get("arch")
    if not (isinstance(arch, str) and arch):
        raise GrigriError(
            f"--weights {folder}: its {CONFIG} names no network of timm (architecture); to use it,"
            f" name the file, --weights {file}, and --arch"
        )
    about = config.get("pretrained_cfg", config)  # older ones have all at the top
    about = about if isinstance(about, dict) else {}
    licence = about.get("license")
    return HubFolder(
        path=folder,
        file=file,
        arch=arch,
        size_px=_size_px(about.get("input_size")),
        preprocessing=_preprocessing(about.get("mean"), about.get("std")),
        licence=licence if isinstance(licence, str) else "",
    )


def _config(file: Path, folder: Path) -> dict[str, Any]:
    """Return the object in ``config.json``."""
    if not file.is_file():
        hint = ""
        if (folder / "config.toml").is_file():
            hint = f" (of a run: --weights {folder / 'last.safetensors'})"
        raise GrigriError(
            f"--weights {folder}: there is no {CONFIG} in it, so it is no folder of the hub's{hint}"
        )
    try:
        config = json.loads(files.read_bytes(file, _MOST_BYTES))
    except GrigriError as e:
        raise GrigriError(f"--weights {file}: {e}") from e
    except (ValueError, RecursionError) as e:
        raise GrigriError(f"--weights {file}: not valid JSON: {e}") from e
    if not isinstance(config, dict):
        raise GrigriError(f"--weights {file}: expected a JSON object")
    return config


def _size_px(input_size: Any) -> int | None:
    """Return the side of ``[3, H, W]``; None if it is something else, or no square."""
    if not (isinstance(input_size, list) and len(input_size) == 3):
        return None
    height, width = input_size[1:]
    return height if isinstance(height, int) and height == width and height > 0 else None


def _preprocessing(mean: Any, std: Any) -> Preprocessing | None:
    """Return what is told by three numbers each; None if they are something else."""
    for numbers in (mean, std):
        if not (isinstance(numbers, list) and len(numbers) == 3):
            return None
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            return None
    if not all(x > 0 for x in std):
        return None
    return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)))
