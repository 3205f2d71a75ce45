"""Lines, tables and numbers on the screen; plain text in a pipe. Uses rich."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..runtime.option import shown

if TYPE_CHECKING:
    from ..evaluation.bootstrap import Interval

_START_S = time.monotonic()  # close to when the program started
_LISTED_CLASSES = 200  # in a table on the screen
_SHOWN_LINES = 20  # of a long list; the rest is only mentioned


_is_terminal = sys.stdout is not None and sys.stdout.isatty()
# A table in a pipe is as wide as it needs to be; nothing is cut off to 80 columns.
stdout = Console(highlight=False, width=None if _is_terminal else 240)


@dataclass
class Verbosity:
    """How much the command line says; set before a command by ``--quiet`` and ``--verbose``.

    Attributes:
        quiet: errors and results only.
        verbose: also when something happened, and where an error came from.
    """

    quiet: bool = False
    verbose: bool = False


verbosity = Verbosity()


def say(text: str = "") -> None:
    """Print a line as it is."""
    stdout.print(text, markup=False, soft_wrap=True)


def mention(text: str) -> None:
    """Print a line that is no result, unless --quiet; with --verbose after the seconds so far."""
    if verbosity.verbose:
        text = "\n".join(f"{time.monotonic() - _START_S:8.2f} s  {x}" for x in text.split("\n"))
    if not verbosity.quiet:
        say(text)


def complain(text: str) -> None:
    """Print a line on stderr: a word about the result that is no part of it."""
    print(text, file=sys.stderr)


def say_first(lines: Sequence[str], rest: str) -> None:
    """Print the first lines of a list, indented, and where there are more, ``rest``."""
    for line in lines[:_SHOWN_LINES]:
        say(f"  {line}")
    if len(lines) > _SHOWN_LINES:
        say(f"  ... {rest.format(len(lines) - _SHOWN_LINES)}".rstrip())


def new_table(*columns: str, num_texts: int = 1) -> Table:
    """Return an empty table; its first columns hold text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for name in columns[:num_texts]:
        table.add_column(name, overflow="fold")
    for name in columns[num_texts:]:
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    return table


def listed_classes(counts: Sequence[float]) -> tuple[list[int], str]:
    """Return which classes a table on the screen lists, and a word about the others, "" if none.

    ``counts``: images of each class (C). Of thousands of classes the most frequent are listed.
    """
    if len(counts) <= _LISTED_CLASSES:
        return list(range(len(counts))), ""
    order = sorted(range(len(counts)), key=lambda c: -counts[c])
    others = len(counts) - _LISTED_CLASSES
    return sorted(order[:_LISTED_CLASSES]), f"... and {others:,} less frequent classes"


def show(table: Table) -> None:
    """Print a table."""
    stdout.print(table)


def number(value: float | None) -> str:
    """Return a score with four digits, or a dash if there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def interval(score: "Interval") -> str:
    """Return 0.7123 (.701-.724): the score and its 95 % interval, where there is one."""
    if math.isnan(score.value):
        return "-"
    if math.isnan(score.low):  # the words below say why
        return f"{score.value:.4f} [dim](-)[/dim]"
    # 1 instead of 1.000: three columns of scores fit into 80 characters.
    low, high = (
        f"{x:.3f}".removeprefix("0").replace("1.000", "1") for x in (score.low, score.high)
    )
    return f"{score.value:.4f} [dim]({low}-{high})[/dim]"


def with_probabilities(names: Sequence[str], probabilities: Mapping[str, float]) -> str:
    """Return labels, each with its probability, or a dash if there are none."""
    words = [f"{escape(name)} [dim]{probabilities[name]:.2f}[/dim]" for name in names]
    return ", ".join(words) or "[dim]-[/dim]"


def value_of_option(value: Any) -> str:
    """Return an option's value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else shown(value)
