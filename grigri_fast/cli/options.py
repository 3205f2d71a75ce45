"""Options that several commands share, and those of a training run, which TrainConfig declares."""

import contextlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from ..config import LABEL_OPTIONS, OPTIONS
from ..runtime.option import Option


def architectures(incomplete: str) -> list[str]:
    """Return the names for --arch that begin so, for the shell's completion.

    Those of timm are offered after ``timm/``.
    """
    if incomplete.startswith("timm/"):
        names = [f"timm/{name}" for name in _registered("timm")]
    else:
        names = ["auto", "grigri", "simple", "timm/", *_registered("torchvision")]
    return sorted(name for name in names if name.startswith(incomplete))


def _registered(package: str) -> list[str]:
    """Return the networks of torchvision or timm.

    They are read from its source, where a line names each: importing it takes seconds.
    """
    spec = importlib.util.find_spec(package)
    names: list[str] = []
    for folder in spec.submodule_search_locations or () if spec else ():
        for file in Path(folder, "models").glob("*.py"):
            source = file.read_text(encoding="utf-8")
            names += re.findall(r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)", source, re.M)
    return names


def _parse_threshold(text: str) -> str | float:
    if text in ("auto", "per-class"):
        return text
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise typer.BadParameter(f"{text!r} is not auto, per-class or a number from 0 to 1")


def passed_on(parameters: dict[str, Any], *own: str) -> dict[str, Any]:
    """Return a command's parameters but for its own ones.

    The function that the command calls has the same, by the same names.
    """
    return {name: value for name, value in parameters.items() if name not in own}


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are given."""
    return {name: value for name, value in options.items() if value is not None}


DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="A folder or a CSV file.")]
DataOrDemoArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATA]",
        help="Images and labels, as in train. Without it: the demo set.",
        show_default=False,
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of train.")]
ImagesOption = Annotated[str | None, typer.Option(metavar="DIR", help=OPTIONS["images"].text)]
CheckpointOption = Annotated[
    Literal["last", "best"],
    typer.Option(
        help="last: the final epoch. best: the epoch with the best validation micro-F1, whose "
        "score there flatters.",
    ),
]
ThresholdOption = Annotated[
    Any,
    typer.Option(
        metavar="auto|per-class|NUMBER",
        parser=_parse_threshold,
        help="auto: one threshold, for the best micro-F1; per-class: one for each class's best F1; "
        "or a number.",
    ),
]
MaxBadOption = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of images that may be unusable and are left out."),
]
MaxPixelsOption = Annotated[int, typer.Option(min=1, help=OPTIONS["max_pixels"].text)]
DeviceOption = Literal["auto", "cuda", "cpu"]
AmpOption = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"],
    typer.Option(help="Number format; auto: what the device is fast at."),
]
MemoryLimitOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The most that this process may take on the device (on a CPU: of memory of its own), "
        "like 4GiB.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
ArchOption = Annotated[str, typer.Option(autocompletion=architectures)]
SizeOption = Annotated[int | None, typer.Option(min=1)]
BatchSizeOption = Annotated[int | None, typer.Option(min=2)]
FastOption = Annotated[bool, typer.Option(help="As in train.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Command(TyperCommand):
    """A command whose help suits a terminal of 80 columns.

    A switch is shown as ``--[no-]fast``, where typer has a second column for ``--no-fast`` that
    leaves no room for the help itself; and paragraphs are wrapped anew.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", self.help or "")
        for param in self.params:
            if param.secondary_opts:
                param.opts = [f"--[no-]{param.opts[0][2:]}"]
                param.secondary_opts = []
        super().format_help(ctx, formatter)


def with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every one of TrainConfig but DATA, with its documentation.

    ``None`` stands for "not given", so that the command line takes precedence over a config file.
    """
    return _with_options(command, {n: about for n, about in OPTIONS.items() if n != "data"})


def with_label_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say how labels are to be read."""
    return _with_options(command, LABEL_OPTIONS)


def _with_options(
    command: Callable[..., None], options: Mapping[str, Option]
) -> Callable[..., None]:
    *own, more = inspect.signature(command).parameters.values()  # the last one is **options
    parameters = own + [
        more.replace(
            name=name,
            kind=more.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[about.kind | None, _typer_option(about)],
        )
        for name, about in options.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _typer_option(about: Option) -> Any:
    more: dict[str, Any] = {"autocompletion": architectures} if about.name == "arch" else {}
    if about.words and about.range:
        more = {"parser": _number_or_word(about.words, about.range.low)}
    return typer.Option(
        f"{about.flag}/--no-{about.flag[2:]}" if about.is_switch else about.flag,
        # Rich would take [default: 1] for a style.
        help=about.help_with_default.replace("[", "\\["),
        rich_help_panel=about.group,
        metavar=about.metavar or " ",
        show_default=False,
        **more,
    )


def _number_or_word(words: Mapping[str, int], least: float) -> Callable[[str], int]:
    """Return what reads a whole number, or a word that stands for one that is not a value."""

    def parse(text: str) -> int:
        if text in words:
            return words[text]
        try:
            number = int(text)
        except ValueError:
            expected = " or ".join(["a whole number", *words])
            raise typer.BadParameter(f"{text!r} is not {expected}") from None
        if number in words.values():
            raise typer.BadParameter(f"{number} is not at least {least}")
        return number

    return parse
