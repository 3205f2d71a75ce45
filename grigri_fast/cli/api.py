"""What the commands do, as functions; the command line parses, calls these, and shows the result.

Nothing heavy is imported before a function runs. What goes wrong and can be put right is a
:class:`GrigriError`, with the command line's one line; it names options as ``--option``.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack

from ..config import TrainConfig, read_toml
from ..errors import GrigriError
from ..runtime.distributed import World
from ..training.callbacks import Callback

if TYPE_CHECKING:
    from ..training.trainer import Result

StrPath: TypeAlias = str | os.PathLike[str]


class TrainOptions(TypedDict, total=False):
    """The options of :class:`TrainConfig`, which documents them, for who checks types."""

    images: StrPath | None
    val: float | None
    test: float | None
    split: StrPath | None
    limit: int | None
    max_bad: float | None
    strict: bool
    max_pixels: int
    arch: str
    weights: StrPath
    freeze_backbone: bool
    init: Literal["default", "he"] | None
    train_norms: bool | None
    size: int
    start_size: int | None
    test_size: int | None
    flip_test: bool | None
    recipe: Literal["report", "best"] | None
    epochs: int
    batch_size: int | Literal["auto"]
    micro_batch_size: int | None
    activation_checkpointing: bool
    loss: Literal["bce", "mse", "focal", "asl"]
    optimizer: Literal["sgd", "muon", "adam", "amsgrad", "rmsprop"] | None
    schedule: Literal["onecycle", "constant"]
    lr: float | None
    head_lr_factor: float
    warm_up: float | None
    momentum: float | None
    momentum_min: float | None
    weight_decay: float | None
    decay_all: bool | None
    ema: float | None
    sampler: Literal["shuffle", "balanced"]
    most_repeats: float
    augment: bool
    least_area: float | None
    rotation: float | None
    color: float | None
    erasing: float | None
    mixup: float | None
    cutmix: float | None
    label_smoothing: float | None
    seed: int
    device: Literal["auto", "cuda", "cpu"]
    amp: Literal["auto", "fp32", "fp16", "bf16"]
    memory_limit: str | None
    cache: Literal["auto", "off", "ram", "device"]
    compile: Literal["auto", "on", "off"]
    fast: bool
    threads: int | None
    out: StrPath
    name: str | None
    checkpoint_every: str
    tensorboard: bool


def train(
    data: StrPath | None = None,
    *,
    config: StrPath | None = None,
    resume: StrPath | None = None,
    callback: Callback | None = None,
    **options: Unpack[TrainOptions],
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
    given = _given(data, options)
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


# ----------------------------------------------------------------------------------- helpers


def _given(data: StrPath | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not None, paths as text."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    for name in options:
        if name not in names:
            raise TypeError(f"train() has no option {name!r}; it has {', '.join(sorted(names))}")
    given = {"data": data, **options}
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in given.items()
        if value is not None
    }
