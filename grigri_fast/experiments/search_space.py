"""What a search varies: ranges and choices, from the declarations of the options in ``config``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import OPTIONS, TrainConfig, read_toml, resolve
from ..errors import GrigriError, UsageError
from ..runtime.files import StrPath
from ..runtime.option import Option

FORMAT = "grigri-fast tune 1"
# What may differ when a search goes on: it says where trials run, not what they are. The data are
# compared by their content.
MAY_CHANGE = ("images", "threads", "cache", "checkpoint_every", "tensorboard")
# In the order in which a trial's values are drawn. Options that change what an epoch costs (size,
# batch) are not searched: the search would be one for time as well.
SEARCHABLE = sorted(
    (about for about in OPTIONS.values() if about.search), key=lambda about: about.search.order
)

Space = dict[str, dict[str, Any]]  # by option: {"low", "high", "log"} or {"choices"}


def start_config(
    options: dict[str, Any], file: StrPath | None, minutes: float | None = None
) -> TrainConfig:
    """Return where a search starts: what is given, else what a file says, else the default.

    Args:
        options: what is given, by name.
        file: a TOML file of options.
        minutes: for how long trials begin, or None.

    Raises:
        UsageError: if there are no data, or no time.
        GrigriError: if options are wrong or contradict each other.
    """
    if minutes is not None and not minutes > 0:
        raise UsageError(f"--minutes must be more than 0, not {minutes:g}")
    if "name" in options:
        raise GrigriError("--name does not go with tune; --out is the folder of the search")
    stored = read_toml(Path(file)) if file is not None else {}
    chosen = {k: v for k, v in stored.items() if k not in ("out", "name")} | options
    if "data" not in chosen:
        raise UsageError("DATA is missing: images and labels, a folder or a CSV")
    return TrainConfig(**chosen)


def space_of(config: TrainConfig, fixed: set[str], asked: Sequence[str] = ()) -> Space:
    """Return what is searched from ``config`` on, while the ``fixed`` options stay as they are.

    If nothing is ``asked`` for, it is all that is searched by default and is not fixed.

    Raises:
        GrigriError: if something that was asked for cannot be searched, or nothing is left.
    """
    names = [about.name for about in SEARCHABLE]
    start = resolve(config)
    for name in asked:
        if name not in names:
            raise GrigriError(f"--search {name}: can be any of {', '.join(names)}")
        flag = OPTIONS[name].flag
        if name in fixed:
            raise GrigriError(f"{flag} is given, so it is fixed; leave it or --search {name} out")
        if why_not := _has_no_effect(OPTIONS[name], start):
            raise GrigriError(f"--search {name}: not with {why_not}")
    if not asked:
        asked = [
            about.name
            for about in SEARCHABLE
            if about.search.by_default
            and about.name not in fixed
            and not _has_no_effect(about, start)
        ]
    if not asked:
        raise GrigriError("all that could be searched is given on the command line, so is fixed")
    return {about.name: _range(about, config) for about in SEARCHABLE if about.name in asked}


def _has_no_effect(about: Option, start: TrainConfig) -> str:
    """Return the option with which another one does nothing, or ""."""
    if about.augments and not start.augment:
        return "--no-augment"
    if about.needs_weights and start.weights == "none":
        return "--weights none"
    if about.search.optimizers and start.optimizer not in about.search.optimizers:
        return f"--optimizer {start.optimizer}"
    return ""


def _range(about: Option, config: TrainConfig) -> dict[str, Any]:
    """Return the range or choices of one option."""
    search, start = about.search, getattr(resolve(config), about.name)
    if about.choices:
        return {"choices": [start, *(choice for choice in about.choices if choice != start)]}
    if search.log and not start > 0:
        raise GrigriError(
            f"{about.flag} {start:g} is no start for a search by factors; give it on the command"
            f" line to keep it"
        )
    unit = start if search.times_start else 1
    low, high = min(search.low * unit, start), max(search.high * unit, start)
    if search.not_below and getattr(config, search.not_below) is not None:
        low = max(low, getattr(config, search.not_below))
    return {"low": low, "high": max(low, high), "log": search.log}


def description(config: TrainConfig, space: Space) -> dict[str, Any]:
    """Return what makes a search the one that it is, as its folder stores it."""
    options = dataclasses.asdict(resolve(config))
    for name in ("data", "out", "name", *MAY_CHANGE, *space):
        del options[name]
    return {"format": FORMAT, "searched": space, "options": options}


def difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words the first difference between two descriptions, or ""."""
    for name in then["searched"] | now["searched"]:
        flag = OPTIONS[name].flag
        before, after = (one["searched"].get(name) for one in (then, now))
        if before is None:
            return f"{flag} was fixed there, and would be searched now"
        if after is None:
            return f"{flag} is searched there, and would be fixed now"
        if before != after:
            return f"{flag} was searched in {_in_words(before)}, not {_in_words(after)}"
    for name in then["options"] | now["options"]:
        before, after = (one["options"].get(name) for one in (then, now))
        if before != after:
            return f"--{name.replace('_', '-')} was {before}, not {after}"
    return ""


def _in_words(values: dict[str, Any]) -> str:
    if "choices" in values:
        return "/".join(map(str, values["choices"]))
    return f"{values['low']:g}..{values['high']:g}"
