"""Tables of a row per image and label that say whether the image has it: 1, 0 or a confidence.

Where such a table says what an image has *not*, nothing is known of the labels that it does not
list for the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import GrigriError
from .. import packed
from . import columns as finder
from .cells import FLAGS, are_flags, read_cells
from .image_paths import locate
from .labels import LabelOptions, Labels
from .reading import counted
from .table import Table

HALF = 0.5  # the confidence from which on an image has a label
_VALUES = frozenset(
    {
        *("value", "present", "presence", "ispresent", "exists", "has", "haslabel", "positive"),
        *("ispositive", "relevant", "isrelevant", "flag", "y", "truth", "groundtruth"),
        *("confidence", "conf", "score", "probability", "prob"),
    }
)


class _Others(Sequence[list[str]]):
    """For each image the classes that are not listed for it, made when they are asked for."""

    def __init__(self, class_names: list[str], known: list[set[str]]) -> None:
        self._class_names = class_names
        self._known = known

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, row):
        return [name for name in self._class_names if name not in self._known[row]]


@dataclass(frozen=True)
class Joined:
    """The labels of each image (N), in the order in which the images come first."""

    first: list[int]
    labels: list[list[str]]
    class_names: list[str]
    unknown: Sequence[list[str]] | None
    notes: list[str]


def joined(images: Sequence[object], labels: Sequence[str], values: Sequence[float]) -> Joined:
    """Return the labels of each image.

    Args:
        images: what stands for the image of each row (M).
        labels: the label of each row (M); "" for none.
        values: 1 or 0, or a confidence between them (M).
    """
    has: dict[object, dict[str, bool]] = {}
    first: list[int] = []
    odd: dict[object, set[str]] = {}
    for row, (image, label, value) in enumerate(zip(images, labels, values, strict=True)):
        if image not in has:
            has[image] = {}
            first.append(row)
        if label and has[image].setdefault(label, value >= HALF) != (value >= HALF):
            odd.setdefault(image, set()).add(label)
    class_names = sorted({label for label in labels if label})
    known = [of_one.keys() - odd.get(image, set()) for image, of_one in has.items()]
    read = [[n for n, is_so in of.items() if is_so and n in k]
            for of, k in zip(has.values(), known, strict=True)]  # fmt: skip
    notes = []
    num_odd = sum(len(of_one) for of_one in odd.values())
    if num_odd:
        what = counted(num_odd, "label")
        notes.append(f"unknown: {what} that an image has in one row and has not in another")
    between = sum(0 < value < 1 for value in values)
    if between:
        notes.append(f"an image has a label from a confidence of {HALF} on")
    num_not = sum(value == 0 for value in values)
    num_open = len(class_names) * len(known) - sum(len(of_one) for of_one in known) - num_odd
    is_open = bool(num_not) and num_open > 0
    if is_open:
        notes.append(
            f"{num_not:,} rows say that a label is absent; labels not listed for an image are"
            " unknown"
        )
    elif num_open > 0:
        notes.append("labels that are not listed for an image are taken as absent")
    unknown = _Others(class_names, known) if is_open or num_odd else None
    if num_odd and not is_open:
        unknown = [sorted(odd.get(image, ())) for image in has]  # type: ignore[assignment]
    return Joined(first, read, class_names, unknown, notes)


def _value(cell: str) -> float | None:
    """Return the number from 0 to 1 that a cell holds, also as true or no; None: it holds none."""
    if cell.casefold() in FLAGS:
        return float(FLAGS[cell.casefold()])
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None


def _value_column(table: Table) -> int | None:
    """Return the column that says whether an image has the label of its row, if there is one."""
    found = [
        i
        for i, name in enumerate(table.header)
        if finder.plain(name) in _VALUES
        and any(_value(cell) is not None for cell in table.values[i])
    ]
    named = [i for i, name in enumerate(table.header) if finder.is_label_name(name)]
    if len(found) != 1 or len(named) != 1 or are_flags(table.values[named[0]]):
        return None
    return found[0]


def is_value_table(table: Table) -> bool:
    """Return whether a table has a row per image and label, and a column of 0 and 1."""
    column = _value_column(table)
    if column is None:
        return False
    return any(len(values) < len(table.rows) and max(values.values()) > 1
               for i, values in enumerate(table.values) if i != column
               and not finder.is_label_name(table.header[i]))  # fmt: skip


def has_confidences(table: Table) -> bool:
    """Return whether the values of such a table are not only 0 and 1."""
    column = _value_column(table)
    return column is not None and any(0 < (_value(c) or 0) < 1 for c in table.values[column])


def read_value_table(table: Table, options: LabelOptions) -> Labels:
    """Read a table with the columns image, label and value.

    Raises:
        GrigriError: if it is not sure which column is what, or a cell is wrong.
    """
    column = _value_column(table)
    if column is None:
        raise GrigriError(
            f"{table.file}: expected a column of labels and one of 0 and 1, named value or present"
        )
    name = table.header[column]
    odd = next((cell for cell in table.values[column] if _value(cell) is None), None)
    if odd is not None:
        raise GrigriError(
            f"{table.where(table.find(column, odd), column)}: {odd[:40]!r} is neither 0 nor 1"
        )
    if has_confidences(table) and options.layout != "long-values":
        raise GrigriError(
            f"{table.file}: each row can be a label of its image (--layout long), or one if"
            f" {name!r} is at least {HALF} (--layout long-values)"
        )
    keep = [i for i in range(len(table.header)) if i != column]
    rest = Table(
        table.file,
        [table.header[i] for i in keep],
        [[row[i] for i in keep] for row in table.rows],
        table.lines,
    )
    columns = finder.find(rest, options, "label-column")
    located = locate(table.file, rest.columns[columns.image], table.where, options.images)
    (of_labels,) = columns.labels
    place = f"{table.file}, column {rest.header[of_labels]!r}"
    separator = "none" if options.separator is None else options.separator
    cells = read_cells(
        place, rest.columns[of_labels], table.where, replace(options, separator=separator), None
    )
    several = next((row for row, words in enumerate(cells.labels) if len(words) > 1), None)
    if several is not None:
        raise GrigriError(f"{table.where(several)}: several labels, and one value for them")
    values = [_value(cell) or 0.0 for cell in table.columns[column]]
    words = ["".join(of_one) for of_one in cells.labels]
    found = joined(located.paths, words, values)
    first_of = {located.paths[row]: row for row in found.first}
    for of_rows, what in ((columns.parts, "part"), (columns.groups, "group")):
        for row, path in enumerate(located.paths if of_rows else []):
            if of_rows and of_rows[row] != of_rows[first_of[path]]:
                raise GrigriError(
                    f"{table.where(row)}: {located.names[row]} is in another {what} in line"
                    f" {table.lines[first_of[path]]}"
                )
    note = f"each row is a label of an image; {name!r} is 1 if the image has it"
    return Labels(
        [located.names[row] for row in found.first],
        packed.paths(located.paths[row] for row in found.first),
        found.labels,
        found.class_names,
        f"{table.file} (a row per image and label, with a value)",
        unknown=found.unknown,
        parts=columns.parts and [columns.parts[row] for row in found.first],
        groups=columns.groups and [columns.groups[row] for row in found.first],
        notes=[*columns.notes, note, *cells.notes, *found.notes, *located.notes],
    )
