"""What the commands do, as functions; the command line parses, calls these, and shows the result.

Nothing heavy is imported before a function runs. What goes wrong and can be put right is a
:class:`GrigriError`, with the command line's one line; it names options as ``--option``.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, get_args

from ..config import MAX_PIXELS, TrainConfig, read_toml
from ..errors import GrigriError
from ..runtime.distributed import World
from ..runtime.units import parse_bytes
from ..training.callbacks import Callback

if TYPE_CHECKING:
    import torch

    from ..evaluation.evaluator import RunEvaluation
    from ..inference.predictor import Classifier, Images, Prediction
    from ..runs.checkpoint import ModelInfo
    from ..training.trainer import Result

StrPath: TypeAlias = str | os.PathLike[str]
Checkpoint: TypeAlias = Literal["last", "best"]
Part: TypeAlias = Literal["train", "val", "test"]
Threshold: TypeAlias = Literal["auto", "per-class"] | float
Device: TypeAlias = Literal["auto", "cuda", "cpu"]
Amp: TypeAlias = Literal["auto", "fp32", "fp16", "bf16"]
Progress: TypeAlias = Callable[[int, int], None]  # images done, images in all


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


def evaluate(
    run: StrPath,
    *,
    data: StrPath | None = None,
    images: StrPath | None = None,
    part: Part | None = None,
    threshold: Threshold = "auto",
    checkpoint: Checkpoint = "last",
    save: bool = False,
    max_bad: float = 0.05,
    max_pixels: int = MAX_PIXELS,
    device: Device = "auto",
    amp: Amp = "auto",
    memory_limit: str | None = None,
    threads: int | None = None,
    watch: Progress | None = None,
) -> "RunEvaluation":
    """Say how good a trained model is, with 95 % intervals, as ``grigri-fast eval`` does.

    Args:
        run: a run folder of :func:`train`.
        data: other photographs and labels, all of which are scored, instead of the run's own.
        images: with ``data``, the folder that a CSV's image names are relative to.
        part: of the run's own data; ``val`` by default.
        threshold: ``auto``, one for the best micro-F1; ``per-class``, one for each class's best F1;
            or a number from 0 to 1.
        checkpoint: ``last``, the final epoch; ``best``, the epoch with the best validation
            micro-F1, whose score there flatters.
        save: store the threshold in the checkpoint, for :func:`predict`.
        max_bad: share of the images that may be unusable; they are left out.
        max_pixels: larger images are refused unread.
        device, amp, threads: what to compute on, in which number format, with how many CPU threads.
        memory_limit: the most that this process may take on the device, like ``4GiB``.
        watch: called with images done and images in all.

    Raises:
        GrigriError: if run, data and labels do not fit together, or an option is wrong.
    """
    check_evaluation(data, images, part)
    _require_one_of("--checkpoint", checkpoint, Checkpoint)
    _require_one_of("--part", part or "val", Part)
    _require_threshold(threshold)
    limit = _memory(memory_limit)

    from ..evaluation import evaluator
    from ..runs import checkpoint as checkpoints
    from ..runtime.memory import Budget

    path = evaluator.checkpoint_path(Path(run), checkpoint)
    place = _device(device)
    with Budget(place, limit) as budget:
        scored = evaluator.evaluate_run(
            Path(run),
            which=checkpoint,
            data=None if data is None else os.fspath(data),
            images=None if images is None else os.fspath(images),
            part=part or "val",
            threshold=threshold,
            device=place,
            amp=_amp(amp, place),
            threads=_threads(threads),
            max_bad=max_bad,
            max_pixels=max_pixels,
            budget=budget,
            on_progress=watch or (lambda done, total: None),
        )
    if save:
        done = scored.evaluation
        source = f"{done.threshold_source} on the {scored.images}"
        checkpoints.set_thresholds(path, done.thresholds, source)
    return scored


def check_evaluation(data: object, images: object, part: object) -> None:
    """Raise GrigriError, before the work, for options of :func:`evaluate` that do not fit."""
    if data is not None and part is not None:
        raise GrigriError("--part is of the run's own data; with --data all images are scored")
    if images is not None and data is None:
        raise GrigriError("--images goes with --data")


def load(
    run: StrPath,
    *,
    checkpoint: Checkpoint = "last",
    max_pixels: int = MAX_PIXELS,
    device: Device = "auto",
    amp: Amp = "auto",
    threads: int | None = None,
) -> "Classifier":
    """Return a run's model, ready to label images (``.predict``); its network is ``.module``.

    ``run`` may also be an ONNX file of ``grigri-fast export``, which is computed on the CPU in
    fp32 and has no ``.module``. The options are those of :func:`evaluate`.

    Raises:
        GrigriError: if there is no such run or file, or it is damaged.
    """
    _require_one_of("--checkpoint", checkpoint, Checkpoint)

    from ..evaluation import evaluator
    from ..inference import predictor

    if predictor.is_exported(Path(run)):
        _require_of_exported(checkpoint, device, amp)
        return predictor.load_exported(Path(run), threads=_threads(threads), max_pixels=max_pixels)
    path = evaluator.checkpoint_path(Path(run), checkpoint)
    place = _device(device)
    return predictor.load(
        path,
        device=place,
        amp=_amp(amp, place),
        threads=_threads(threads),
        max_pixels=max_pixels,
    )


def predict(
    run: "StrPath | Classifier",
    images: "Images",
    *,
    checkpoint: Checkpoint | None = None,
    max_pixels: int | None = None,
    device: Device | None = None,
    amp: Amp | None = None,
    memory_limit: str | None = None,
    threads: int | None = None,
    watch: Progress | None = None,
) -> "list[Prediction]":
    """Label images with the stored threshold, as ``grigri-fast predict`` does.

    Args:
        run: a run folder of :func:`train`, or what :func:`load` has returned.
        images: one or several: files, folders (searched to the bottom) and globs; or pictures in
            memory, as arrays (HWC, uint8 RGB, of any size) or of Pillow.
        watch: called with images done and images in all.
        checkpoint, max_pixels, device, amp, memory_limit, threads: as in :func:`evaluate`, and with
            a run folder only: a model that has been loaded has its own.

    Returns:
        A prediction per image, in order; a file that cannot be used has its reason in ``error``.

    Raises:
        GrigriError: if there is no such run, or a path names nothing.
    """
    if isinstance(run, str | os.PathLike):
        return predict_with_info(
            run,
            images,
            checkpoint=checkpoint or "last",
            max_pixels=max_pixels or MAX_PIXELS,
            device=device or "auto",
            amp=amp or "auto",
            memory_limit=memory_limit,
            threads=threads,
            watch=watch,
        )[0]
    options = (checkpoint, max_pixels, device, amp, memory_limit, threads)
    if any(option is not None for option in options):
        raise GrigriError(
            "a loaded model has the options that it was loaded with: give them to load"
        )
    return run.predict(images, watch)


def predict_with_info(
    run: StrPath,
    images: "Images",
    *,
    checkpoint: Checkpoint,
    max_pixels: int,
    device: Device,
    amp: Amp,
    memory_limit: str | None,
    threads: int | None,
    watch: Progress | None,
) -> "tuple[list[Prediction], ModelInfo]":
    """Return what :func:`predict` does, and what the model is."""
    from ..inference import predictor
    from ..runtime.memory import Budget

    if predictor.is_exported(Path(run)):
        _require_of_exported(checkpoint, device, amp)
        device = "cpu"
    with Budget(_device(device), _memory(memory_limit)) as budget:  # before the model is loaded
        model = load(
            run,
            checkpoint=checkpoint,
            max_pixels=max_pixels,
            device=device,
            amp=amp,
            threads=threads,
        )
        return model.predict(images, watch, budget), model.info


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


def _require_one_of(flag: str, value: str, literal: Any) -> None:
    if value not in get_args(literal):
        raise GrigriError(f"{flag} must be one of {', '.join(get_args(literal))}, not {value!r}")


def _require_threshold(threshold: Threshold) -> None:
    if threshold in ("auto", "per-class"):
        return
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise GrigriError(
            f"--threshold {threshold!r} is not auto, per-class or a number from 0 to 1"
        )


def _require_of_exported(checkpoint: str, device: str, amp: str) -> None:
    for flag, value, goes in (
        ("--checkpoint", checkpoint, ("last",)),
        ("--device", device, ("auto", "cpu")),
        ("--amp", amp, ("auto", "fp32")),
    ):
        if value not in goes:
            raise GrigriError(f"{flag} {value} does not go with an exported file; leave it out")


def _memory(text: str | None) -> int | None:
    return None if text is None else parse_bytes(text, "--memory-limit")


def _device(name: Device) -> "torch.device":
    _require_one_of("--device", name, Device)

    from ..runtime import compute

    return compute.pick_device(name)


def _amp(name: Amp, device: "torch.device") -> str:
    _require_one_of("--amp", name, Amp)

    from ..runtime import compute

    return compute.pick_amp(name, device)


def _threads(number: int | None) -> int:
    if number is not None and number < 1:
        raise GrigriError(f"--threads must be at least 1, not {number}")

    from ..runtime import compute

    return number or compute.usable_threads()
