"""An option, declared once: a dataclass field that carries all that there is to know about it.

A field is made by :func:`option`; :func:`options_of` returns what a dataclass declares. The command
line, the config file, the search for options and the manual are derived from it.
"""

import contextlib
import dataclasses
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, TypeVar, get_args, get_origin

from ..errors import GrigriError

_MANY = 9  # values that --help cannot show on a line

P = ParamSpec("P")
R = TypeVar("R")
Stored = TypeVar("Stored", covariant=True)
Given = TypeVar("Given", contravariant=True)


class Converted(Generic[Stored, Given]):
    """For type checkers: the type of a field that is given as one type and stored as another."""

    def __get__(self, instance: object, owner: object = None) -> Stored:
        raise NotImplementedError

    def __set__(self, instance: object, value: Given) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` on, up to ``high`` if it is given.

    Attributes:
        low, high: the ends; ``high`` itself is outside.
        open_low: ``low`` itself is outside, too.
        closed_high: ``high`` itself is inside.
        reason: why it has to be so, where that is worth saying.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    closed_high: bool = False
    reason: str = ""

    def __contains__(self, value: float) -> bool:
        is_above = self.low < value if self.open_low else self.low <= value
        return is_above and (value <= self.high if self.closed_high else value < self.high)

    def notation(self, name: str) -> str:
        """Return it as ``0<=X<1``, for a number called X."""
        if self.high == math.inf:
            return f"{name}{'>' if self.open_low else '>='}{self.low}"
        low, high = "<" if self.open_low else "<=", "<=" if self.closed_high else "<"
        return f"{self.low}{low}{name}{high}{self.high}"

    def require(self, flag: str, value: float) -> None:
        """Raise GrigriError, with a sentence about the option ``flag``, for a value outside."""
        if value in self:
            return
        least = f"{'more than' if self.open_low else 'at least'} {self.low}"
        words = f"{least} and {'at most' if self.closed_high else 'less than'} {self.high}"
        if self.high == math.inf:
            words = least
        elif self.closed_high and isinstance(value, int):
            words = f"from {self.low} to {self.high}"
        reason = f": {self.reason}" if self.reason else ""
        raise GrigriError(f"{flag} must be {words}, not {value}{reason}")


@dataclass(frozen=True)
class Search:
    """How ``tune`` searches an option: within a range, or among its choices if there is no range.

    Attributes:
        low, high: the range of a number; it is widened where the search starts outside.
        times_start: ``low`` and ``high`` are factors of where the search starts.
        log: equal factors are equally likely, instead of equal differences.
        by_default: searched even if ``--search`` does not name it.
        not_below: an option that this one must not be below, where that is set.
        optimizers: the optimizers that it does something with; empty: all.
        order: when its value is drawn for a trial. What a seed draws depends on it.
    """

    low: float = 0.0
    high: float = 0.0
    times_start: bool = False
    log: bool = False
    by_default: bool = False
    not_below: str | None = None
    optimizers: tuple[str, ...] = ()
    order: int = 5


@dataclass(frozen=True, kw_only=True)
class Option:
    """Everything about an option.

    Attributes:
        name, kind, default: of the field; ``kind`` is its annotation.
        text: what it does, without its default.
        group: the heading that it stands under in ``--help`` and in the manual.
        unset: what ``None`` means, in words, if it is not ``fallback`` or simply "by --recipe".
        range: the numbers that are allowed.
        check: called with a value that is not ``None``; raises GrigriError for a wrong one.
        words: what may be written instead of a number or a path, and the value it stands for.
        report, best: what ``None`` becomes in the recipe of that name.
        fine_tune: what ``None`` becomes in ``best`` with loaded weights, if that is another.
        fallback: what ``None`` becomes in every recipe.
        augments: it is part of the augmentation, so it does nothing with ``--no-augment``.
        without_augment: what ``None`` becomes with ``--no-augment``.
        without_fast: what ``auto`` becomes with ``--no-fast``.
        search: how ``tune`` searches it, if it can.
        may_change: a resume may change it, since it says where and how carefully a run is made,
            not what it is.
        needs_weights: why it cannot be used with ``--weights none``, if it cannot.
        one_process: why it cannot be used by several processes that train together.
        is_input: a path that is stored as an absolute one, so that a run can be repeated from any
            folder.
    """

    name: str = ""
    kind: Any = None
    default: Any = None
    text: str
    group: str
    unset: str = ""
    range: Range | None = None
    check: Callable[[Any], object] | None = None
    words: Mapping[str, Any] = field(default_factory=dict)
    report: Any = None
    best: Any = None
    fine_tune: Any = None
    fallback: float | None = None
    augments: bool = False
    without_augment: float | None = 0.0
    without_fast: str | None = None
    search: Search | None = None
    may_change: bool = False
    needs_weights: str = ""
    one_process: str = ""
    is_input: bool = False

    @property
    def flag(self) -> str:
        """Return its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        """Return whether it is on or off."""
        return self.kind in (bool, bool | None)

    @property
    def recipes(self) -> dict[str, Any]:
        """Return what ``None`` becomes, by recipe; empty if no recipe says."""
        if self.report is None:
            return {}
        fine_tune = self.best if self.fine_tune is None else self.fine_tune
        return {"report": self.report, "best": self.best, "fine_tune": fine_tune}

    @property
    def choices(self) -> tuple[Any, ...]:
        """Return the values of an option that has only a few; else nothing."""
        if self.is_switch:
            return (True, False)
        kinds = (self.kind,) if get_origin(self.kind) is Literal else get_args(self.kind)
        return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())

    @property
    def metavar(self) -> str:
        """Return what stands for its value where it is explained; "" for a switch."""
        if self.choices:
            return "" if self.is_switch else "NAME"
        kinds = get_args(self.kind) or (self.kind,)
        return "N" if int in kinds else "X" if float in kinds else "TEXT"

    @property
    def values(self) -> str:
        """Return its choices or its range, as ``--help`` shows them; "" for a switch or a text."""
        if self.is_switch:
            return ""
        range = [self.range.notation(self.metavar), *self.words] if self.range else []
        values = [*map(str, self.choices), *range]
        return ("|" if len(values) < _MANY else ", ").join(values)  # a line breaks at spaces alone

    @property
    def default_in_words(self) -> str:
        """Return its default as ``--help`` says it, or "" if there is nothing to say."""
        if self.unset:
            return self.unset
        if self.default is not None:
            return shown(self.default)
        if self.recipes:
            return "by --recipe"
        return "" if self.fallback is None else f"{self.fallback:g}"

    @property
    def help(self) -> str:
        """Return what it does and, where nothing is stored for it, what happens then."""
        default = self.default_in_words if self.default is None else ""
        return f"{self.text} [default: {default}]" if default else self.text

    @property
    def help_with_default(self) -> str:
        """Return what it does, its range and its default, for ``--help``."""
        default = f"default: {self.default_in_words}" if self.default_in_words else ""
        notes = "; ".join(note for note in (self.values, default) if note)
        return f"{self.text} [{notes}]" if notes else self.text

    def checked(self, value: Any) -> Any:
        """Return a value as it is stored: a word as what it stands for, an int as a float.

        Raises:
            GrigriError: if it is of another type, out of range, or wrong in another way.
        """
        if isinstance(value, str | os.PathLike):
            value = self.words.get(os.fspath(value), os.fspath(value))
        value = self._of_its_kind(value)
        if value is None or value in self.words.values():
            return value
        if self.range is not None:
            self.range.require(self.flag, value)
        if self.check is not None:
            self.check(value)
        return value

    def _of_its_kind(self, value: Any) -> Any:
        kinds = get_args(self.kind) or (self.kind,)
        if self.choices and not self.is_switch:
            if value in self.choices or (value is None and type(None) in kinds):
                return value
            raise GrigriError(
                f"{self.flag} must be one of {', '.join(self.choices)}, not {value!r}"
            )
        if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
            with contextlib.suppress(OverflowError):
                return float(value)
        if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            # No path has a NUL; one that is not UTF-8 has surrogates, which TOML cannot hold.
            raise GrigriError(f"{self.flag} {value!a} has a character that is not allowed")
        if type(value) not in kinds:
            wanted = next(k for k in kinds if k is not type(None)).__name__
            raise GrigriError(f"{self.flag} takes a value of type {wanted}, not {value!r}")
        return value


def option(default: Any, text: str, range: Range | None = None, *, group: str, **more: Any) -> Any:
    """Return a dataclass field that is an option; see :class:`Option` for what it may say."""
    about = Option(default=default, text=text, group=group, range=range, **more)
    return field(default=default, metadata={"option": about})


def options_of(config: type) -> dict[str, Option]:
    """Return the options that a dataclass declares, by name."""
    return {
        f.name: dataclasses.replace(f.metadata["option"], name=f.name, kind=f.type)
        for f in dataclasses.fields(config)
        if "option" in f.metadata
    }


def given_options(config: type, options: Mapping[str, Any], caller: str) -> dict[str, Any]:
    """Return the options that are not ``None``, of those that a function was called with.

    Raises:
        TypeError: for a name that is not an option; ``caller`` is the function's name.
    """
    names = options_of(config)
    for name in options:
        if name not in names:
            raise TypeError(f"{caller}() has no option {name!r}; it has {', '.join(sorted(names))}")
    return {name: value for name, value in options.items() if value is not None}


def absolute_inputs(config: Any) -> dict[str, str]:
    """Return the options of a config that name an input file or folder, as absolute paths."""
    return {
        name: str(Path(getattr(config, name)).absolute())
        for name, about in options_of(type(config)).items()
        if about.is_input and getattr(config, name) not in (None, *about.words)
    }


def write_toml(config: Any) -> str:
    """Return the TOML text of a config: every option under its documentation.

    An option that does not apply (``None``) stands as a comment, since TOML has no null.
    """
    lines = ["# Written by grigri-fast. `grigri-fast train --config` on this file repeats the run."]
    for name, about in options_of(type(config)).items():
        value = getattr(config, name)
        lines.append(f"\n# {about.help}")
        # A JSON string, number or boolean is a TOML one too (DEL alone has to be escaped).
        text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"# {name} is not set" if value is None else f"{name} = {text}")
    return "\n".join(lines) + "\n"


def signature_of(call: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Return a decorator that gives a function the parameters of ``call``, a dataclass.

    Editors, type checkers and ``help`` see them; the function itself takes them as ``**options``.
    """

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        returns = inspect.signature(function).return_annotation
        signature = inspect.signature(call).replace(return_annotation=returns)
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate


def shown(value: Any) -> str:
    """Return a value as ``--help`` writes it."""
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
