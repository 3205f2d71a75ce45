"""What the cells of a table mean: lists of labels, 0/1 flags, parts of a split, "no label"."""

import ast
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ...errors import GrigriError
from .labels import LabelOptions

# Ways to say that there is no label, in any case.
NO_LABEL = frozenset(
    {"", "nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "-", "--", "[]", "{}"}
)
# Ways to write 0 and 1; a column keeps to one of them.
_FLAG_WORDS = [
    {"0": False, "1": True, "0.0": False, "1.0": True, "0,0": False, "1,0": True},
    {"false": False, "true": True},
    {"no": False, "yes": True},
]
FLAGS = {word: value for words in _FLAG_WORDS for word, value in words.items()}
_PARTS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing", "tst"),
    "": ("", "unassigned"),
}
PART_OF = {word: part for part, words in _PARTS.items() for word in words}
SEPARATORS = "|;,"
_NAMES = {"space": " ", "comma": ",", "semicolon": ";", "pipe": "|", "tab": "\t", "none": ""}
_CALLED = {" ": "space"}


class Cells(NamedTuple):
    """Labels of cells, and how they were read, a sentence each."""

    labels: list[list[str]]
    notes: list[str]


def read_cells(
    place: str,
    cells: Sequence[str],
    where: Callable[[int], str],
    options: LabelOptions,
    usual: str | None,
) -> Cells:
    """Return the labels in the cells of one column (N).

    A cell is a JSON or Python list, or names with a separator between them. The separator is one
    for the whole column, so that names may contain spaces beside ``|``.

    Args:
        place: the file and the column, for messages.
        cells: the cells, without spaces around them (N).
        where: returns the place of a cell by its row, for messages.
        options: the separator and the words for "no label", where they are given.
        usual: the separator that this layout has; None: it is to be found out.

    Raises:
        GrigriError: if it is not sure how the cells are to be read, or one is damaged.
    """
    nothing = NO_LABEL if options.no_label is None else {w.casefold() for w in options.no_label}
    first_of: dict[str, int] = {}
    for row, cell in enumerate(cells):
        first_of.setdefault(cell, row)
    full = [cell for cell in first_of if cell.casefold() not in nothing]
    broken = next((cell for cell in full if "\n" in cell), None)
    if broken is not None and options.separator != "\n":
        raise GrigriError(
            f"{where(first_of[broken])}: {broken[:40]!r} has a line break; write labels in one"
            " line, with | between them"
        )
    lists = [cell for cell in full if cell.startswith("[")]
    if lists and options.separator is None:
        odd = next((cell for cell in full if not cell.startswith("[")), None)
        if odd is not None:
            raise GrigriError(
                f"{where(first_of[odd])}: {odd[:40]!r} is no list, and other cells are lists such"
                f" as {lists[0][:40]!r}; write all cells in one way"
            )
        read = {cell: _list(cell, where(first_of[cell])) for cell in full}
        note = "a cell is a list of labels"
    else:
        separator = _given_separator(options.separator)
        if separator is None:
            separator = _separator(place, full, usual)
        split = (lambda c: c.split(separator)) if separator else (lambda c: [c])
        read = {cell: split(cell) for cell in full}
        called = _CALLED.get(separator, repr(separator))
        note = f"labels are separated by {called}" if separator else "a cell is one label"
    meant: Counter[str] = Counter()

    def kept(cell: str) -> list[str]:
        words = [word.strip() for word in read.get(cell, [cell])]
        meant.update(w for w in words if w.casefold() in nothing and w not in ("", "[]"))
        return [word for word in words if word and word.casefold() not in nothing]

    labels = [kept(cell) for cell in cells]
    notes = [note]
    if meant:
        words = ", ".join(f"{word!r} ({count:,})" for word, count in meant.most_common(6))
        notes.append(f"read as no label (--no-label): {words}")
    return Cells(labels, notes)


def _given_separator(text: str | None) -> str | None:
    return text if text is None else _NAMES.get(text.casefold(), text)


def _separator(place: str, cells: Sequence[str], usual: str | None) -> str:
    """Return what separates the labels of a column, "" if a cell is one label.

    Raises:
        GrigriError: if two readings are possible.
    """
    braces = next((cell for cell in cells if cell.startswith("{")), None)
    if braces is not None:
        raise GrigriError(f"{place}: {braces[:40]!r} is neither a name nor a list of names")
    used = [sep for sep in SEPARATORS if any(sep in cell for cell in cells)]
    if len(used) > 1:
        one = next(cell for cell in cells if used[0] in cell)
        other = next(cell for cell in cells if used[1] in cell)
        raise GrigriError(
            f"{place}: labels seem to be separated by both {used[0]!r} ({one[:40]!r}) and "
            f"{used[1]!r} ({other[:40]!r}); --separator {used[0]!r} or {used[1]!r} says by which"
        )
    if used == [","] and not _is_sure_of_comma(cells):
        example = next(cell for cell in cells if "," in cell)
        raise _two_readings(place, example, ",", "--separator ,")
    if used:
        return used[0]
    spaced = next((cell for cell in cells if len(cell.split()) > 1), None)
    if spaced is None:
        return ""
    if usual is not None:
        return usual
    raise _two_readings(place, spaced, None, "--separator space")


def _is_sure_of_comma(cells: Sequence[str]) -> bool:
    """Whether a comma stands between labels, not within names such as ``tench, Tinca tinca``.

    It does where what stands beside commas comes back in other cells.
    """
    pieces = Counter(
        piece for cell in cells for piece in {p.strip() for p in cell.split(",")} if piece
    )
    beside = {p.strip() for cell in cells if "," in cell for p in cell.split(",")} - {""}
    return sum(pieces[piece] > 1 for piece in beside) * 2 >= len(beside)


def _two_readings(place: str, cell: str, separator: str | None, choice: str) -> GrigriError:
    words = [word.strip() for word in cell.split(separator) if word.strip()]
    several = ", ".join(repr(word[:30]) for word in words[:4])
    return GrigriError(
        f"{place}: {cell[:60]!r} can be the labels {several} ({choice}) or one label "
        f"(--separator none)"
    )


def _list(cell: str, where: str) -> list[str]:
    """Return the names in a JSON list, or in a Python list as pandas writes it."""
    try:
        words = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            words = ast.literal_eval(cell) if "'" in cell and len(cell) < 10_000 else None
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            words = None
    if words is None:
        raise GrigriError(f"{where}: not a JSON list: {cell[:40]!r}")
    if not are_strings(words):
        raise GrigriError(f"{where}: expected a list of names: {cell[:40]!r}")
    return words


def are_strings(words: object) -> bool:
    """Return whether something is a list of texts."""
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def are_flags(cells: Iterable[str]) -> bool:
    """Return whether all cells are 0 or 1, in one way of writing them."""
    words = {cell.casefold() for cell in cells}
    return any(words <= known.keys() for known in _FLAG_WORDS)


def parts_of(cells: Sequence[str], is_flag_of: str | None) -> list[str] | None:
    """Return the part that each cell names; None if some name none.

    Args:
        cells: such as ``train``, ``valid``, ``test``, or flags.
        is_flag_of: the part of the images whose flag is set; the others are for training.
    """
    if is_flag_of is not None and are_flags(cells):
        return [is_flag_of if FLAGS[cell.casefold()] else "train" for cell in cells]
    words = {cell: PART_OF.get(cell.casefold()) for cell in set(cells)}
    if any(part is None for part in words.values()) or not any(words.values()):
        return None
    return [words[cell] or "" for cell in cells]
