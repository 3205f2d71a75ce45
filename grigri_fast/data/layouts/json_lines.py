"""JSON Lines as a table: an object per line, with the image's name and its labels."""

import json
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from .columns import is_label_name
from .reading import read_text
from .table import Table


def read_json_lines(file: Path) -> Table:
    """Return the objects of a JSON Lines file as the rows of a table, keys as columns.

    A list stays a list, written as JSON; where a key has lists and texts, a text is a list of one.
    ``null`` and a missing key are an empty cell.

    Raises:
        GrigriError: for a line that is no JSON object, or lacks the labels.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for line_number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise GrigriError(f"{file} line {line_number}: not valid JSON: {e}") from e
        if not isinstance(record, dict):
            raise GrigriError(
                f"{file} line {line_number}: expected an object with a file_name and labels"
            )
        if isinstance(record.get("file_name", ""), int | float | list | dict):
            raise GrigriError(f"{file} line {line_number}: file_name must be a text")
        records.append(record)
        lines.append(line_number)
    if not records:
        raise GrigriError(f"{file}: no images; expected a JSON object with file_name on each line")
    header = list(dict.fromkeys(key for record in records for key in record))
    for key in header:
        if is_label_name(key):
            _require_everywhere(file, key, records, lines)
    has_lists = {key for key in header if any(isinstance(r.get(key), list) for r in records)}
    rows = [[_cell(r.get(key), key in has_lists) for key in header] for r in records]
    return Table(file, header, rows, lines)


def _require_everywhere(
    file: Path, key: str, records: list[dict[str, Any]], lines: list[int]
) -> None:
    for record, line in zip(records, lines, strict=True):
        if key not in record:
            raise GrigriError(f"{file} line {line}: no {key!r}, which other lines have")


def _cell(value: Any, is_list: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return json.dumps([value]) if is_list else value.strip()
    return json.dumps(value)
