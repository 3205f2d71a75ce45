"""The rules by which options that were left open are filled in, and config files are read."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from ..errors import GrigriError
from ..runtime import files
from .options import OF_ONECYCLE, OPTIONS, TrainConfig

# Of optimizers that the recipe does not have. AdamW's are assumed: a rate for fine-tuning, and a
# decay that is far larger than an L2 penalty, since the rate multiplies it.
_OF_OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.01},
    "muon": {"lr": 0.02},
    "adam": {"lr": 0.001},
    "adamw": {"lr": 3e-4, "weight_decay": 0.05},
    "amsgrad": {"lr": 0.001},
    "rmsprop": {"lr": 0.001},
}

# What options are that are not given, by recipe; best with loaded weights is fine_tune.
RECIPES = {
    recipe: {name: about.recipes[recipe] for name, about in OPTIONS.items() if about.recipes}
    for recipe in ("report", "best", "fine_tune")
}
RECIPES["fine_tune"]["freeze_stages"] = (
    None  # the network and the device decide, when they are known
)


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what was left open, by the rules that the options' help states.

    Raises:
        GrigriError: if an option would contradict another.
    """
    new = _filled_in(config)
    new = {name: value for name, value in new.items() if getattr(config, name) is None}
    momentum = new["momentum"] if config.momentum is None else config.momentum
    if config.schedule == "onecycle" and config.momentum_min is None:
        new["momentum_min"] = min(new["momentum_min"], momentum)
    elif config.momentum_min is not None and config.momentum_min > momentum:
        raise GrigriError(f"--momentum-min {config.momentum_min} is above --momentum {momentum}")
    if not config.fast:
        for name, about in OPTIONS.items():
            if about.without_fast is not None and getattr(config, name) == "auto":
                new[name] = about.without_fast
    config = dataclasses.replace(config, **new)
    if not (config.epochs or config.probe):
        raise GrigriError("--epochs 0 leaves nothing to do without a linear probe (--probe)")
    return config


def _filled_in(config: TrainConfig) -> dict[str, Any]:
    """Return what each option is that has a rule for being left open."""
    recipe = config.recipe or "best"
    is_fine_tuning = recipe == "best" and config.weights != "none"
    new: dict[str, Any] = {"recipe": recipe, **RECIPES["fine_tune" if is_fine_tuning else recipe]}
    new |= {n: about.fallback for n, about in OPTIONS.items() if about.fallback is not None}
    new |= {"start_size": config.size, "test_size": config.size}
    if config.strict:
        new["max_bad"] = 0.0
    if config.optimizer not in (None, new["optimizer"]):
        new |= _OF_OPTIMIZERS[config.optimizer]
    if config.optimizer == "rmsprop":
        new["momentum"] = 0.0
    elif config.schedule == "constant":
        new["momentum"] = 0.9
    if config.schedule == "constant":
        new |= dict.fromkeys(OF_ONECYCLE)
    if not config.augment:
        new |= {n: about.without_augment for n, about in OPTIONS.items() if about.augments}
    if config.freeze_backbone:
        new |= {"freeze_stages": 0, "freeze_norms": False, "layer_decay": 1.0}
    return new


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file; an unknown key is an error."""
    try:
        options = tomllib.loads(files.read_text(path))
    except GrigriError as e:
        raise GrigriError(f"--config {path}: {e}") from e
    except (ValueError, RecursionError) as e:
        raise GrigriError(f"--config {path}: not valid TOML: {e}") from e
    for key in options:
        if key not in OPTIONS:
            raise GrigriError(
                f"--config {path}: unknown key {key!r}; the keys are {', '.join(OPTIONS)}"
            )
    return options
