"""Tables with a column per class that hold -1 beside 0 and 1, which means "not" or "not known"."""

from dataclasses import replace

from ...errors import GrigriError
from .labels import LabelOptions, Labels
from .table import Table
from .tables import read_table

# By the name of the layout: which cells mean that an image does not have a class, and which that it
# is not known.
KINDS = {
    "plus-minus": (("-1",), ("0", "")),
    "uncertain": (("0",), ("-1", "")),
}
_MEANS = {
    "plus-minus": "1: has it, -1: has it not, 0 or nothing: not known",
    "uncertain": "1: has it, 0: has it not, -1 or nothing: not known",
}


def read(table: Table, options: LabelOptions, kind: str) -> Labels:
    """Read a table of 1, 0, -1 and empty cells; ``kind`` is one of ``KINDS``.

    Raises:
        GrigriError: if no column holds such cells alone, or the table is wrong in another way.
    """
    no, unknown = KINDS[kind]
    plain = {"1.0": "1", "0.0": "0", "-1.0": "-1"}
    words = {"1", *no, *unknown}
    columns = [
        i
        for i, values in enumerate(table.values)
        if {plain.get(v, v) for v in values} <= words and "1" in {plain.get(v, v) for v in values}
    ]
    if not columns:
        raise GrigriError(
            f"{table.file}: --layout {kind}: no column holds {', '.join(words)} alone"
        )
    rows = [list(row) for row in table.rows]  # to be written in 0 and 1
    not_known: list[list[str]] = [[] for _ in rows]
    for column in columns:
        for row, cell in enumerate(table.columns[column]):
            rows[row][column] = "1" if plain.get(cell, cell) == "1" else "0"
            if plain.get(cell, cell) in unknown:
                not_known[row].append(table.header[column])
    labels = read_table(
        Table(table.file, table.header, rows, table.lines),
        options,
        "one-hot",
        name=f"a column per class, {kind}",
    )
    of_classes = set(labels.class_names)
    return replace(
        labels,
        unknown=[[name for name in names if name in of_classes] for names in not_known],
        notes=[*labels.notes, _MEANS[kind]],
    )
