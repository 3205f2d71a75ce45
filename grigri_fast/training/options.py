"""What :func:`training.trainer.train` takes, and the config of a new run. Loads nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TrainConfig, read_toml
from ..runtime.distributed import World
from ..runtime.files import StrPath
from .callbacks import Callback


@dataclass(frozen=True, kw_only=True)
class TrainArguments(TrainConfig):
    """What ``train`` takes, for type checkers and editors."""

    config: StrPath | None = None
    resume: StrPath | None = None
    callback: Callback | None = None


def train_config(
    options: dict[str, Any],
    file: StrPath | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> TrainConfig:
    """Return the config of a new run: what is given, else what a file says, else the default.

    Where no data are named, the demo set is used, and the options that suit it are the defaults.

    Args:
        options: what is given, by name.
        file: a TOML file of options.
        log: takes a line about the demo set.

    Raises:
        GrigriError: if options are wrong or contradict each other.
    """
    chosen = (read_toml(Path(file)) if file is not None else {}) | options
    if "data" not in chosen:
        from ..data import demo

        chosen = demo.RECIPE | chosen | {"data": str(demo.cached_folder())}
        if World.from_environment().is_first:
            log("no DATA given: training on a generated demo set")
    return TrainConfig(**chosen)
