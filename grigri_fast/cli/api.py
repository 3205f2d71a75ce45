"""What the commands do, as functions; the command line parses, calls these, and shows the result.

Nothing heavy is imported before a function runs. What goes wrong and can be put right is a
:class:`GrigriError`, with the command line's one line; it names options as ``--option``.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..config import TrainConfig, read_toml
from ..errors import GrigriError
from ..runtime.distributed import World
from ..runtime.option import given_options, signature_of
from ..training.callbacks import Callback

if TYPE_CHECKING:
    from ..training.trainer import Result

StrPath: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class _Train(TrainConfig):
    """What :func:`train` takes, for type checkers and editors."""

    config: StrPath | None = None
    resume: StrPath | None = None
    callback: "Callback | None" = None


@signature_of(_Train)
def train(
    data: StrPath | None = None,
    *,
    config: StrPath | None = None,
    resume: StrPath | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> "Result":
    """Train a multi-label classifier and leave a run folder, as ``grigri-fast train`` does.

    Args:
        data: photographs and labels: a folder or a CSV. Without it: the generated demo set.
        config: a TOML file of options; those that are given here win.
        resume: a run folder to go on in, where it was stopped.
        callback: told of the progress; see :class:`Callback`.
        options: the fields of :class:`TrainConfig`; ``None`` is the same as not given.

    Returns:
        The run ``folder``; ``history``, a row per epoch as in ``results.csv``; ``evaluation``, of
        the last epoch on the validation part, with intervals; ``train_s``, seconds of training.

    Raises:
        GrigriError: for what you can fix.
        Interrupted: (no Exception) when Ctrl-C, SIGTERM or SIGHUP has stopped it after a step; the
            state is stored, and ``resume`` goes on.
        TypeError: for an option that there is not.
    """
    if resume is not None and config is not None:
        raise GrigriError("--resume takes the options of the run; leave --config out")
    callback = callback or Callback()
    given = given_options(TrainConfig, {"data": data, **options}, "train")
    settings = train_config(given, config, callback.log) if resume is None else None

    from ..training import trainer

    if settings is not None:
        return trainer.train(settings, callback)
    assert resume is not None
    folder = Path(resume)
    return trainer.train(trainer.resumed_config(folder, given), callback, folder)


def train_config(
    options: dict[str, Any],
    file: StrPath | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> TrainConfig:
    """Return the config of a new run: what is given, else what a file says, else the default.

    Where no data are named, those and some options are the demo set's, and ``say`` is told.

    Raises:
        GrigriError: if options are wrong or contradict each other.
    """
    chosen = (read_toml(Path(file)) if file is not None else {}) | options
    if "data" not in chosen:
        from ..data import demo

        chosen = demo.RECIPE | chosen | {"data": str(demo.cached_folder())}
        if World.from_environment().is_first:
            say("no DATA given: training on a generated demo set")
    return TrainConfig(**chosen)
