"""The options of a training run: one frozen dataclass that documents and validates itself.

The command line builds its options from :class:`TrainConfig`, so a field is written down once.
Precedence: command line over ``--config`` file over the default. ``None`` means "not said"; the
rules in :func:`resolve` fill it in where a rule exists.
"""

import contextlib
import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from .errors import GrigriError
from .runtime import files
from .runtime.units import parse_bytes

MAX_PIXELS = 100_000_000  # the default of --max-pixels: 300 MB decoded
AUTO = 0  # what --batch-size auto is in a config

# What options are that nobody has said. "report" is the 2020 report's last recipe; "best" is ours,
# as measured from scratch (benchmarks/README.md).
RECIPES: dict[str, dict[str, Any]] = {
    "report": {
        "init": "default",
        "train_norms": False,
        "flip_test": False,
        "optimizer": "sgd",
        "lr": 0.01,
        "warm_up": 0.3,
        "momentum": 0.95,
        "momentum_min": 0.85,
        "weight_decay": 1e-4,
        "decay_all": True,
        "ema": 0.0,
        "least_area": 0.08,
        "rotation": 25.0,
        "color": 0.0,
        "erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
    },
    "best": {
        "init": "he",
        "train_norms": True,
        "flip_test": True,
        "optimizer": "muon",
        "lr": 0.02,
        "warm_up": 0.1,
        "momentum": 0.9,
        "momentum_min": 0.9,
        "weight_decay": 5e-4,
        "decay_all": False,
        "ema": 0.998,
        "least_area": 0.25,
        "rotation": 10.0,
        "color": 0.0,
        "erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
    },
}
# Of optimizers that the recipe does not have.
_LEARNING_RATES = {"sgd": 0.01, "muon": 0.02, "adam": 0.001, "amsgrad": 0.001, "rmsprop": 0.001}
_OF_AUGMENT = ("least_area", "rotation", "color", "erasing", "mixup", "cutmix")


def option(default: Any, help: str, group: str) -> Any:
    """Return a dataclass field with its default, its one-line documentation and its help panel."""
    return field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run. What is not said comes from the recipe."""

    data: str | None = field(default=None, metadata={"help": "Photographs and labels."})
    images: str | None = option(None, "Folder that a CSV's image names are relative to.", "Data")
    val: float | None = option(None, "Share of the images for validation. [default: 0.2]", "Data")
    test: float | None = option(None, "Share held back as a test part. [default: 0]", "Data")
    split: str | None = option(None, "Split file written by `data split --out`.", "Data")
    limit: int | None = option(None, "Use only N images, drawn at random, to try things.", "Data")
    max_bad: float | None = option(
        None,
        "Share of images that may be unusable: they are left out, named in quarantine.csv. "
        "[default: 0.05]",
        "Data",
    )
    strict: bool = option(False, "Stop at the first image that cannot be used.", "Data")
    max_pixels: int = option(MAX_PIXELS, "Larger images are refused unread.", "Data")

    arch: str = option(
        "resnet34",
        "A torchvision classification model; grigri, a compact residual network that learns fast "
        "from scratch; or simple, the report's.",
        "Model",
    )
    weights: str = option("imagenet", "imagenet, none, or a .pth/.safetensors file.", "Model")
    freeze_backbone: bool = option(False, "Train the head only.", "Model")
    init: Literal["default", "he"] | None = option(
        None,
        "How weights that are not loaded are drawn: as torchvision does, or by He et al. (2015), "
        "without which a deep plain network does not learn. [default: by --recipe]",
        "Model",
    )
    train_norms: bool | None = option(
        None,
        "Give a network without norms (simple, VGG, AlexNet, SqueezeNet) BatchNorms while it "
        "trains from scratch; in the stored model they are folded into its layers, whose number "
        "and shapes stay. [default: by --recipe with --weights none, else off]",
        "Model",
    )
    size: int = option(224, "Side of the square that images are resized to, in pixels.", "Model")
    start_size: int | None = option(
        None,
        "Progressive resizing: side in the first epochs; it grows to --size, which the last third "
        "of the epochs has. [default: --size]",
        "Model",
    )
    test_size: int | None = option(
        None,
        "Side in evaluation and prediction; while training is at smaller sizes, in proportion. "
        "[default: --size]",
        "Model",
    )
    flip_test: bool | None = option(
        None,
        "Evaluate and predict with the mean of each image and its mirror image. "
        "[default: by --recipe]",
        "Model",
    )

    recipe: Literal["report", "best"] | None = option(
        None,
        "Where options come from that are not said. report: the 2020 report's last recipe; best: "
        "ours, measured from scratch. [default: best with --weights none, else report]",
        "Training",
    )
    epochs: int = option(20, "Passes over the training images.", "Training")
    batch_size: int = option(
        32,
        "Images per step; auto: the largest power of two that fits the memory (--memory-limit, or "
        "most of what is free).",
        "Training",
    )
    micro_batch_size: int | None = option(
        None,
        "Images that go through the network at once, where a step's do not fit; BatchNorm sees "
        "each micro-batch alone. [default: all, or what --memory-limit leaves]",
        "Training",
    )
    activation_checkpointing: bool = option(
        False,
        "Compute activations twice instead of keeping them: less memory, about a third slower; "
        "the result is the same.",
        "Training",
    )
    loss: Literal["bce", "mse", "focal", "asl"] = option(
        "bce",
        "Loss on the labels: binary cross-entropy, squared error, focal loss, asymmetric loss.",
        "Training",
    )
    optimizer: Literal["sgd", "muon", "adam", "amsgrad", "rmsprop"] | None = option(
        None,
        "Optimizer; muon: orthogonal steps for convolutions, SGD for the rest. "
        "[default: by --recipe]",
        "Training",
    )
    schedule: Literal["onecycle", "constant"] = option(
        "onecycle", "Course of the learning rate.", "Training"
    )
    lr: float | None = option(
        None, "(Highest) learning rate. [default: by --recipe, or by the optimizer]", "Training"
    )
    head_lr_factor: float = option(
        1.0, "The head's learning rate, as a multiple of the backbone's.", "Training"
    )
    warm_up: float | None = option(
        None, "Share of a one-cycle run in which the rate rises. [default: by --recipe]", "Training"
    )
    momentum: float | None = option(
        None,
        "Momentum, or Adam's beta1; with onecycle its highest value. "
        "[default: by --recipe with onecycle, else 0.9; 0 for rmsprop]",
        "Training",
    )
    momentum_min: float | None = option(
        None,
        "Momentum while the one-cycle rate is at its peak. [default: by --recipe]",
        "Training",
    )
    weight_decay: float | None = option(
        None, "L2 penalty on the weights. [default: by --recipe]", "Training"
    )
    decay_all: bool | None = option(
        None,
        "Let the penalty hold for norms and biases, too. [default: by --recipe]",
        "Training",
    )
    ema: float | None = option(
        None,
        "Keep an exponential moving average of the weights, with this decay per step, and evaluate "
        "and store that; 0: none. [default: by --recipe]",
        "Training",
    )
    sampler: Literal["shuffle", "balanced"] = option(
        "shuffle",
        "Which images an epoch has. shuffle: each once. balanced: those with rare labels more "
        "often (repeat factors), as many in all.",
        "Training",
    )
    most_repeats: float = option(
        4.0, "With --sampler balanced: the most that an image is repeated.", "Training"
    )

    augment: bool = option(True, "Random resized crop, flip and rotation.", "Augmentation")
    least_area: float | None = option(
        None,
        "Smallest share of a photograph that a crop has. [default: by --recipe]",
        "Augmentation",
    )
    rotation: float | None = option(
        None, "Largest angle of a rotation, in degrees. [default: by --recipe]", "Augmentation"
    )
    color: float | None = option(
        None,
        "Random brightness, contrast and saturation, each by up to this share. "
        "[default: by --recipe]",
        "Augmentation",
    )
    erasing: float | None = option(
        None,
        "Share of the images in which a random rectangle is painted over. [default: by --recipe]",
        "Augmentation",
    )
    mixup: float | None = option(
        None,
        "Blend images in pairs, labels too, with a share from Beta(A, A). [default: by --recipe]",
        "Augmentation",
    )
    cutmix: float | None = option(
        None,
        "Share of the batches in which images get a rectangle of another one, and its labels in "
        "proportion. [default: by --recipe]",
        "Augmentation",
    )
    label_smoothing: float | None = option(
        None,
        "Move targets from 0 and 1 towards 0.5 by this share. [default: by --recipe]",
        "Augmentation",
    )
    seed: int = option(0, "Seed of everything random.", "Training")

    device: Literal["auto", "cuda", "cpu"] = option("auto", "Where to train.", "Machine")
    amp: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto", "Number format of the forward pass; auto: what the device is fast at.", "Machine"
    )
    memory_limit: str | None = option(
        None,
        "The most that this process may take on the device (on a CPU: of memory of its own), like "
        "4GiB or 3500MiB. A trial finds out how to train within it.",
        "Machine",
    )
    cache: Literal["auto", "off", "ram", "device"] = option(
        "auto",
        "Where decoded images are kept, so that later epochs need not decode; auto: where they "
        "fit. Pixels are the same.",
        "Machine",
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto", "torch.compile; auto: where it was measured to pay for itself.", "Machine"
    )
    fast: bool = option(
        True,
        "Whatever makes it fast: number format, memory format, CUDA graphs, cache, compile. "
        "--no-fast: the plain way.",
        "Machine",
    )
    threads: int | None = option(None, "CPU threads. [default: all that are usable]", "Machine")

    out: str = option("runs", "Folder that run folders are made in.", "Output")
    name: str | None = option(None, "Name of the run folder. [default: DATA-ARCH]", "Output")
    checkpoint_every: str = option(
        "10min",
        "How often to store what a resume needs, besides at the end of every epoch: a number of "
        "steps, like 500, or of minutes, like 10min. Ctrl-C and SIGTERM store it too.",
        "Output",
    )
    tensorboard: bool = option(
        False,
        "Also write what TensorBoard shows into RUN/tensorboard (pip install tensorboard).",
        "Output",
    )

    def __post_init__(self) -> None:
        if self.batch_size == "auto":
            object.__setattr__(self, "batch_size", AUTO)
        for f in dataclasses.fields(self):
            value = _checked_type(f.name, getattr(self, f.name), f.type)
            object.__setattr__(self, f.name, value)
        _in_range("val", self.val, 0, 1, open_low=True)
        _in_range("test", self.test, 0, 1)
        _in_range("max_bad", self.max_bad, 0, 1)
        _in_range("lr", self.lr, 0, float("inf"), open_low=True)
        _in_range("momentum", self.momentum, 0, 1)
        _in_range("momentum_min", self.momentum_min, 0, 1)
        _in_range("weight_decay", self.weight_decay, 0, float("inf"))
        _in_range("head_lr_factor", self.head_lr_factor, 0, float("inf"), open_low=True)
        _in_range("most_repeats", self.most_repeats, 1, float("inf"))
        _in_range("rotation", self.rotation, 0, 180, closed_high=True)
        _in_range("least_area", self.least_area, 0, 1, open_low=True, closed_high=True)
        _in_range("erasing", self.erasing, 0, 1, closed_high=True)
        _in_range("cutmix", self.cutmix, 0, 1, closed_high=True)
        _in_range("mixup", self.mixup, 0, 100)
        for name in ("warm_up", "ema", "color", "label_smoothing"):
            _in_range(name, getattr(self, name), 0, 1)
        for name in ("epochs", "size", "start_size", "test_size", "limit", "threads", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise GrigriError(f"{_flag(name)} must be at least 1, not {value}")
        for name in ("batch_size", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 2 and not (name == "batch_size" and value == AUTO):
                raise GrigriError(
                    f"{_flag(name)} must be at least 2, not {value}: BatchNorm has no variance of"
                    f" one image"
                )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            if self.batch_size == AUTO:
                raise GrigriError("--batch-size auto takes whole batches; no --micro-batch-size")
            raise GrigriError(
                f"--micro-batch-size {self.micro_batch_size} is above --batch-size"
                f" {self.batch_size}"
            )
        if self.memory_limit is not None:
            parse_bytes(self.memory_limit, "--memory-limit")
        if self.compile == "on" and (self.memory_limit or self.activation_checkpointing):
            other = "--memory-limit" if self.memory_limit else "--activation-checkpointing"
            raise GrigriError(f"--compile on does not go with {other}; take --compile off")
        if not 0 <= self.seed < 2**32:
            raise GrigriError(f"--seed must be from 0 to {2**32 - 1}, not {self.seed}")
        if self.name is not None and (self.name[:1] in ("", ".") or "/" in self.name):
            raise GrigriError(f"--name {self.name!r} is not a folder name; use --out for the place")
        if self.split is not None and (self.val is not None or self.test is not None):
            raise GrigriError("--split says which images are in which part; leave --val/--test out")
        if self.strict and self.max_bad:
            raise GrigriError("--strict allows no unusable image; leave --max-bad out")
        checkpoint_interval(self.checkpoint_every)
        if not self.out:
            raise GrigriError("--out must not be empty; . is the current folder")
        if (self.val or 0) + (self.test or 0) >= 1:
            raise GrigriError("--val and --test together leave nothing to train on")
        for name in ("momentum_min", "warm_up"):
            if self.schedule == "constant" and getattr(self, name) is not None:
                raise GrigriError(f"{_flag(name)} only works with --schedule onecycle")
        if not self.augment:
            for name in _OF_AUGMENT:
                if getattr(self, name):
                    raise GrigriError(f"{_flag(name)} does nothing with --no-augment")
        if self.start_size is not None and self.start_size > self.size:
            raise GrigriError(f"--start-size {self.start_size} is above --size {self.size}")
        if self.train_norms and self.weights != "none":
            raise GrigriError(
                "--train-norms would undo what loaded weights have learned; use --no-train-norms"
            )
        if self.freeze_backbone and self.head_lr_factor != 1:
            raise GrigriError("--head-lr-factor does nothing with --freeze-backbone; set --lr")

    def size_in(self, epoch: int) -> int:
        """Return the side of the images to train on in an epoch, from 1, of a resolved config.

        From ``start_size`` it grows in steps of 16 px (or to an odd end) to ``size``, evenly over
        the first two thirds of the epochs; the last third, at least the last one, has ``size``.
        """
        way = 1.5 * (epoch - 1) / self.epochs
        if way >= 1 or epoch == self.epochs:
            return self.size
        size = self.start_size + way * (self.size - self.start_size)
        return min(self.size, max(self.start_size, int(size) // 16 * 16))

    def test_size_in(self, epoch: int) -> int:
        """Return the side of the images to evaluate on after an epoch, of a resolved config.

        It grows with the side in training: a network that has seen small images alone is at a loss
        with large ones (Touvron et al. 2019, arXiv 1906.06423).
        """
        return self.size_in(epoch) * self.test_size // self.size


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what was left open, by the rules that the options' help states.

    Raises:
        GrigriError: if an option would contradict another.
    """
    new: dict[str, Any] = {}
    if config.split is None:
        new["val"] = 0.2 if config.val is None else config.val
        new["test"] = 0.0 if config.test is None else config.test
    if config.max_bad is None:
        new["max_bad"] = 0.0 if config.strict else 0.05
    if not config.fast:
        plain = {"amp": "fp32", "cache": "off", "compile": "off"}
        new |= {name: way for name, way in plain.items() if getattr(config, name) == "auto"}
    new["recipe"] = config.recipe or ("best" if config.weights == "none" else "report")
    new |= _not_said(config, new["recipe"])
    momentum = new.get("momentum", config.momentum)
    if config.schedule == "onecycle" and config.momentum_min is None:
        new["momentum_min"] = min(new["momentum_min"], momentum)
    elif config.schedule == "onecycle" and config.momentum_min > momentum:
        raise GrigriError(f"--momentum-min {config.momentum_min} is above --momentum {momentum}")
    return dataclasses.replace(config, **new)


def _not_said(config: TrainConfig, recipe: str) -> dict[str, Any]:
    """Return what the recipe says of the options that were left open."""
    of_recipe = dict(RECIPES[recipe])
    if config.optimizer not in (None, of_recipe["optimizer"]):
        of_recipe["lr"] = _LEARNING_RATES[config.optimizer]
    if config.optimizer == "rmsprop":
        of_recipe["momentum"] = 0.0
    elif config.schedule == "constant":
        of_recipe["momentum"] = 0.9
    if config.schedule == "constant":
        del of_recipe["momentum_min"], of_recipe["warm_up"]
    if not config.augment:
        of_recipe |= dict.fromkeys(_OF_AUGMENT, 0.0) | {"least_area": None, "rotation": None}
    if config.weights != "none":
        of_recipe["train_norms"] = False
    of_recipe |= {"start_size": config.size, "test_size": config.size}
    return {name: value for name, value in of_recipe.items() if getattr(config, name) is None}


def checkpoint_interval(text: str) -> tuple[int | None, float | None]:
    """Return the steps, or else the seconds, that ``--checkpoint-every`` means.

    Raises:
        GrigriError: if it is neither ``500`` nor ``10min``.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(min|steps?)?", text)
    amount = float(found[1]) if found else 0
    if not found or amount <= 0 or (found[2] != "min" and not amount.is_integer()):
        raise GrigriError(
            f"--checkpoint-every {text!r}: expected a number of steps, like 500, or of minutes,"
            f" like 10min"
        )
    return (None, amount * 60) if found[2] == "min" else (int(amount), None)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file; an unknown key is an error."""
    try:
        options = tomllib.loads(files.read_text(path))
    except GrigriError as e:
        raise GrigriError(f"--config {path}: {e}") from e
    except (ValueError, RecursionError) as e:
        raise GrigriError(f"--config {path}: not valid TOML: {e}") from e
    names = [f.name for f in dataclasses.fields(TrainConfig)]
    for key in options:
        if key not in names:
            raise GrigriError(
                f"--config {path}: unknown key {key!r}; the keys are {', '.join(names)}"
            )
    return options


def write_toml(config: TrainConfig) -> str:
    """Return the TOML text of a config: every field under its documentation.

    A field that does not apply (``None``) stands as a comment, since TOML has no null.
    """
    lines = ["# Written by grigri-fast. `grigri-fast train --config` on this file repeats the run."]
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        lines.append(f"\n# {f.metadata['help']}")
        # A JSON string, number or boolean is a TOML one too (DEL alone has to be escaped).
        text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"# {f.name} is not set" if value is None else f"{f.name} = {text}")
    return "\n".join(lines) + "\n"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _checked_type(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` if it fits ``hint`` (an int counts as a float), else raise GrigriError."""
    kinds = (hint,) if get_origin(hint) is Literal else get_args(hint) or (hint,)
    for kind in kinds:
        if get_origin(kind) is Literal:
            if value not in get_args(kind) and not (value is None and type(None) in kinds):
                choices = ", ".join(get_args(kind))
                raise GrigriError(f"{_flag(name)} must be one of {choices}, not {value!r}")
            return value
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        with contextlib.suppress(OverflowError):
            return float(value)
    if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        # No path has a NUL; one that is not UTF-8 has surrogates, which TOML cannot hold.
        raise GrigriError(f"{_flag(name)} {value!a} has a character that is not allowed")
    if type(value) not in kinds:
        wanted = next(k for k in kinds if k is not type(None)).__name__
        raise GrigriError(f"{_flag(name)} takes a value of type {wanted}, not {value!r}")
    return value


def _in_range(
    name: str,
    value: float | None,
    low: float,
    high: float,
    open_low: bool = False,
    closed_high: bool = False,
) -> None:
    """Raise GrigriError unless ``low <= value < high``.

    ``open_low``: ``low`` itself is no value; ``closed_high``: ``high`` itself is one.
    """
    if value is None:
        return
    is_above = low < value if open_low else low <= value
    is_below = value <= high if closed_high else value < high
    if not is_above or not is_below:
        least = "more than" if open_low else "at least"
        most = f" and {'at most' if closed_high else 'less than'} {high}"
        if high == float("inf"):
            most = ""
        raise GrigriError(f"{_flag(name)} must be {least} {low}{most}, not {value}")
