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

from . import files, imagefile
from .errors import GrigriError

AUTO = 0  # what --batch-size auto is in a config


def option(default: Any, help: str, group: str) -> Any:
    """Return a dataclass field with its default, its one-line documentation and its help panel."""
    return field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run. The defaults are the report's final recipe."""

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
    max_pixels: int = option(imagefile.MAX_PIXELS, "Larger images are refused unread.", "Data")

    arch: str = option("resnet34", "A torchvision classification model, or simple.", "Model")
    weights: str = option("imagenet", "imagenet, none, or a .pth/.safetensors file.", "Model")
    freeze_backbone: bool = option(False, "Train the head only.", "Model")
    size: int = option(224, "Side of the square that images are resized to, in pixels.", "Model")

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
    loss: Literal["bce", "mse"] = option("bce", "Loss on the labels.", "Training")
    optimizer: Literal["sgd", "adam", "amsgrad", "rmsprop"] = option(
        "sgd", "Optimizer.", "Training"
    )
    schedule: Literal["onecycle", "constant"] = option(
        "onecycle", "Course of the learning rate.", "Training"
    )
    lr: float | None = option(
        None, "(Highest) learning rate. [default: 0.01 for sgd, else 0.001]", "Training"
    )
    momentum: float | None = option(
        None,
        "Momentum, or Adam's beta1; with onecycle its highest value. "
        "[default: 0.95 with onecycle, else 0.9; 0 for rmsprop]",
        "Training",
    )
    momentum_min: float | None = option(
        None, "Momentum while the one-cycle rate is at its peak. [default: 0.85]", "Training"
    )
    weight_decay: float = option(1e-4, "L2 penalty on the weights.", "Training")
    augment: bool = option(True, "Random resized crop, flip and rotation.", "Training")
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
        for name in ("epochs", "size", "limit", "threads", "max_pixels"):
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
            memory_size(self.memory_limit, "--memory-limit")
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
        if self.schedule == "constant" and self.momentum_min is not None:
            raise GrigriError("--momentum-min only works with --schedule onecycle")


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
    new["lr"] = config.lr or (0.01 if config.optimizer == "sgd" else 0.001)
    onecycle = config.schedule == "onecycle"
    new["momentum"] = config.momentum
    if config.momentum is None:
        new["momentum"] = 0.0 if config.optimizer == "rmsprop" else 0.95 if onecycle else 0.9
    if onecycle:
        new["momentum_min"] = config.momentum_min
        if config.momentum_min is None:
            new["momentum_min"] = min(0.85, new["momentum"])
        if new["momentum_min"] > new["momentum"]:
            raise GrigriError(
                f"--momentum-min {new['momentum_min']} is above --momentum {new['momentum']}"
            )
    return dataclasses.replace(config, **new)


_UNITS = {
    **{"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40},
}
_LEAST_MEMORY = 2**20


def memory_size(text: str, flag: str) -> int:
    """Return the bytes that ``4GiB``, ``4GB``, ``3500 MiB`` or ``1.5gib`` means.

    Raises:
        GrigriError: if it is not an amount of memory, or less than a MiB; the message names
            ``flag``.
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{0,9})?)\s*([a-zA-Z]*)\s*", text)
    unit = found[2].upper() if found else None
    if unit not in _UNITS:
        raise GrigriError(f"{flag} {text!r}: expected an amount of memory, like 4GiB or 3500MiB")
    num_bytes = int(float(found[1]) * _UNITS[unit])
    if num_bytes < _LEAST_MEMORY:
        raise GrigriError(f"{flag} {text!r} is less than a MiB; did you mean {found[1]}GiB?")
    return num_bytes


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
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            choices = ", ".join(get_args(hint))
            raise GrigriError(f"{_flag(name)} must be one of {choices}, not {value!r}")
        return value
    kinds = get_args(hint) or (hint,)
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
    name: str, value: float | None, low: float, high: float, open_low: bool = False
) -> None:
    """Raise GrigriError unless ``low <= value < high`` (``low < value`` if ``open_low``)."""
    if value is None:
        return
    if not (low < value if open_low else low <= value) or not value < high:
        least = "more than" if open_low else "at least"
        most = "" if high == float("inf") else f" and less than {high}"
        raise GrigriError(f"{_flag(name)} must be {least} {low}{most}, not {value}")
