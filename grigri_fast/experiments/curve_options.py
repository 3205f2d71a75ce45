"""What ``learning-curve`` takes, and what it reports while it runs. Loads nothing heavy."""

import dataclasses
from pathlib import Path
from typing import Any

from ..config import LABEL_OPTIONS, TrainConfig, read_toml
from ..errors import GrigriError
from ..runtime.files import StrPath

# Options of a training that are of use here; the last five may be given with a run, too.
_OF_DATA = (
    "images",
    "split",
    "val",
    "seed",
    "limit",
    "arch",
    "size",
    "weights",
    "max_bad",
    *LABEL_OPTIONS,
)
_OF_MACHINE = ("max_pixels", "device", "amp", "memory_limit", "threads")


def config_of(data: StrPath, options: dict[str, Any]) -> TrainConfig:
    """Return the options of a training on the same data, with the same network.

    Args:
        data: photographs and labels, or a run folder.
        options: by name, ``None`` where one is not given; of a run only those that say what to
            compute on.

    Raises:
        GrigriError: for options that are wrong, or are the run's.
        TypeError: for an option that there is not.
    """
    from ..runs import run_folder  # which loads NumPy

    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in (*_OF_DATA, *_OF_MACHINE):
            raise TypeError(f"learning_curve() has no option {name!r}")
    if not (Path(data) / run_folder.CONFIG).is_file():
        config = TrainConfig(data=str(data), **given)
    else:
        for name in given:
            if name in _OF_DATA:
                raise GrigriError(f"--{name.replace('_', '-')}: the run {data} has its own")
        config = TrainConfig(**read_toml(Path(data) / run_folder.CONFIG))
        own: dict[str, Any] = {
            "split": str(Path(data) / run_folder.SPLIT),
            "val": None,
            "test": None,
        }
        own |= {"limit": None, "tensorboard": False}
        config = dataclasses.replace(config, **own | given)
    if config.weights == "none":
        raise GrigriError("a learning curve needs a pretrained network; --weights none has none")
    return config
