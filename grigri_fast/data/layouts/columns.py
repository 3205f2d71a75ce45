"""Which column of a table is what: the image, labels, the split, groups, or nothing to learn from.

A column is known by its name, by an option, or by its cells. Where that leaves two readings the
table is refused, with the options that choose.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ...errors import GrigriError
from .cells import FLAGS, NO_LABEL, SEPARATORS, are_flags, parts_of
from .labels import LabelOptions
from .reading import looks_like_image
from .table import NAMED, Table

# Names of columns, in lower case without spaces, dashes and underscores; the first one is taken.
_IMAGE = (
    *("filename", "image", "file", "path", "imagepath", "imagefile", "imagename", "filepath"),
    *("fname", "imgpath", "img", "imgname", "imageid", "imageindex", "photo", "picture"),
    *("imageurl", "imgurl", "imagefilename", "name", "id"),
)
_LABELS = (
    *("labels", "label", "tags", "tag", "classes", "class", "categories", "category"),
    *("keywords", "targets", "target", "labelname", "classname"),
)
# Columns of parts, and the part that a flag in them stands for.
_PARTS = {
    **{"split": None, "mluse": None, "part": None, "partition": None, "set": None},
    **{"subset": None, "phase": None, "usage": None, "datasplit": None},
    **{"isvalid": "val", "isval": "val", "isvalidation": "val", "istest": "test"},
}
_GROUPS = frozenset({"patient", "patientid", "group", "groupid", "subject", "subjectid", "burst"})
# What is never a class, whatever the cells hold.
_NO_CLASS = frozenset(
    {
        *("", "index", "idx", "fold", "kfold", "folds", "rowid", "width", "height", "error"),
        *("size", "weight", "timestamp", "date", "time", "url", "license", "author", "title"),
        *("caption", "description", "comment", "comments", "note", "notes", "md5", "sha1"),
        *("sha256", "crc32", "checksum", "latitude", "longitude", "lat", "lon", "id"),
    }
)
_ALMOST_ALL = 0.9
_FEW_VALUES = 0.5  # a text column with fewer values than rows times this may hold labels

Kind = Literal["one-hot", "label-column"]


@dataclass(frozen=True)
class Columns:
    """Which columns a table has.

    Attributes:
        image: the column with the images' names.
        kind: "one-hot", a 0/1 column per class, or "label-column", columns with names of labels.
        labels: the columns of the classes or labels.
        parts: the part of each image, "train", "val", "test" or "", if a column says so (N).
        groups: the group of each image, if a column says so (N).
        notes: what was decided, a sentence each.
    """

    image: int
    kind: Kind
    labels: list[int]
    parts: list[str] | None = None
    groups: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def find(table: Table, options: LabelOptions, kind: Kind | None = None) -> Columns:
    """Return what the columns of a table are.

    Args:
        table: the table.
        options: names of columns where they are given.
        kind: where it is known already.

    Raises:
        GrigriError: if it is not sure what a column is.
    """
    header = table.header
    image = _image_column(table, options)
    part_column, parts = _parts(table, options, image)
    group_column = _group_column(table, options, {image, part_column})
    taken = {image, part_column, group_column, *_turned_off(table, options)}
    left = [i for i in range(len(header)) if i not in taken]
    kind, labels, unused = _label_columns(table, options, left, kind)
    unused = sorted({*unused, *_turned_off(table, options)} - {*labels, image})
    of_labels = "their classes, 0 or 1" if kind == "one-hot" else "their labels"
    notes = [f"{header[image]!r} names the images, {_some_of(header, labels)} {of_labels}"]
    if part_column is not None:
        notes.append(f"{header[part_column]!r} says what is for training, validation and test")
    if group_column is not None:
        notes.append(f"{header[group_column]!r} says which images stay together in a split")
    if unused:
        notes.append(f"columns not used: {_some_of(header, unused)}")
    groups = None if group_column is None else list(table.columns[group_column])
    return Columns(image, kind, labels, parts, groups, notes)


def plain(name: str) -> str:
    """Return a column's name in lower case, without what stands between its words.

    The index that pandas writes and reads again as ``Unnamed: 0`` has no name.
    """
    return re.sub(r"[\s_\-.]|^Unnamed: \d+$", "", name).casefold()


def is_label_name(name: str) -> bool:
    """Return whether a column of this name holds labels."""
    return plain(name) in _LABELS


def _some_of(header: list[str], columns: Iterable[int]) -> str:
    names = [repr(header[i]) for i in columns]
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


# ------------------------------------------------------------------- image, parts and groups


def _image_column(table: Table, options: LabelOptions) -> int:
    if options.image_column is not None:
        return table.column(options.image_column, "--image-column")
    if any(looks_like_image(cell) for cell in table.header):
        raise GrigriError(
            f"{table.file} line 1: {', '.join(table.header)[:60]!r} looks like a row, not like a"
            " header; write a first line such as image,labels"
        )
    shares = [
        sum(n for cell, n in values.items() if looks_like_image(cell)) / len(table.rows)
        for values in table.values
    ]
    named = {plain(name): i for i, name in reversed(list(enumerate(table.header)))}
    known = [named[name] for name in _IMAGE if name in named]
    like = [i for i, share in enumerate(shares) if share >= _ALMOST_ALL]
    both = [i for i in known if i in like]
    if len(both) == 1 or (both and shares[both[0]] > shares[both[1]]):
        return both[0]
    candidates = both or like or known
    if len(candidates) == 1 or (candidates and not like):
        return candidates[0]
    if candidates:
        first, second = (table.header[i] for i in candidates[:2])
        raise GrigriError(
            f"{table.file}: the columns {first!r} and {second!r} can both name the images;"
            f" --image-column {first} or --image-column {second} says which"
        )
    more = ", ..." if len(table.header) > NAMED else ""
    raise GrigriError(
        f"{table.file}: no column names the images; --image-column says which of"
        f" {', '.join(map(repr, table.header[:NAMED]))}{more}"
    )


def _parts(table: Table, options: LabelOptions, image: int) -> tuple[int | None, list[str] | None]:
    """Return the column that names parts, and the part of each image."""
    if options.split_column == "none":
        return None, None
    if options.split_column is not None:
        column = table.column(options.split_column, "--split-column")
        flag_of = _PARTS.get(plain(table.header[column])) or "val"
        parts = parts_of(table.columns[column], flag_of)
        if parts is None:
            raise _odd_part(table, column)
        return column, parts
    columns = [i for i, n in enumerate(table.header) if plain(n) in _PARTS and i != image]
    found = [(i, parts_of(table.columns[i], _PARTS[plain(table.header[i])])) for i in columns]
    usable = [(i, parts) for i, parts in found if parts is not None]
    if len(usable) > 1:
        first, second = (table.header[i] for i, _ in usable[:2])
        raise GrigriError(
            f"{table.file}: the columns {first!r} and {second!r} can both be the split;"
            f" --split-column {first}, {second} or none says which"
        )
    sure = [i for i in columns if plain(table.header[i]) in ("split", "isvalid", "mluse")]
    if not usable and sure:
        raise _odd_part(table, sure[0])
    return usable[0] if usable else (None, None)


def _turned_off(table: Table, options: LabelOptions) -> set[int]:
    """Return the columns of parts and groups that ``none`` says not to use: they are no labels."""
    found = set()
    for i, name in enumerate(table.header):
        is_part = plain(name) in _PARTS and parts_of(table.columns[i], _PARTS[plain(name)])
        if name not in options.label_columns and (
            (options.split_column == "none" and is_part)
            or (options.group_column == "none" and plain(name) in _GROUPS)
        ):
            found.add(i)
    return found


def _odd_part(table: Table, column: int) -> GrigriError:
    values = table.values[column]
    odd = next((v for v in values if parts_of([v], "val") in (None, [""])), next(iter(values)))
    name = table.header[column]
    return GrigriError(
        f"{table.where(table.find(column, odd), column)}: {odd[:40]!r} is no part of a split"
        f" (train, val, test); --split-column none if {name!r} is none"
    )


def _group_column(table: Table, options: LabelOptions, taken: set[int | None]) -> int | None:
    if options.group_column == "none":
        return None
    if options.group_column is not None:
        return table.column(options.group_column, "--group-column")
    columns = [i for i, n in enumerate(table.header) if plain(n) in _GROUPS and i not in taken]
    if len(columns) > 1:
        first, second = (table.header[i] for i in columns[:2])
        raise GrigriError(
            f"{table.file}: the columns {first!r} and {second!r} can both be groups;"
            f" --group-column {first}, {second} or none says which"
        )
    return columns[0] if columns else None


# ----------------------------------------------------------------------------------- labels


def _label_columns(
    table: Table, options: LabelOptions, left: list[int], kind: Kind | None
) -> tuple[Kind, list[int], list[int]]:
    """Return what the label columns hold, which they are, and which columns are not used."""
    if options.label_columns:
        chosen = [table.column(name, "--label-columns") for name in options.label_columns]
        kind = kind or _kind_of(table, chosen)
        return kind, chosen, [i for i in left if i not in chosen]
    named = [i for i in left if plain(table.header[i]) in _LABELS]
    others = [i for i in left if i not in named and plain(table.header[i]) not in _NO_CLASS]
    flags = [i for i in others if _are_flags(table, i)]
    if len(named) > 1 and kind is None and all(_are_flags(table, i) for i in named):
        named, flags, others = [], named + flags, named + others  # classes that have such names
    if not named or kind == "one-hot":
        _refuse_damaged(table, others)
    if flags and (kind == "one-hot" or (kind is None and not named)):
        _refuse_doubtful(table, others, flags)
        return "one-hot", sorted(flags), [i for i in left if i not in flags]
    if kind == "one-hot":
        raise GrigriError(f"{table.file}: no column holds 0 and 1 alone; --label-columns NAMES")
    if len(named) > 1:
        first, second = (table.header[i] for i in named[:2])
        raise GrigriError(
            f"{table.file}: the columns {first!r} and {second!r} can both hold the labels;"
            f" --label-columns {first}, {second} or {first},{second} says which"
        )
    if not named:
        raise _no_labels(table, others)
    label = table.header[named[0]]
    if flags and kind is None:
        raise GrigriError(
            f"{table.file}: labels can be in {label!r} (--label-columns {label}) or in"
            f" {_some_of(table.header, flags)}, 0 and 1 (--layout one-hot)"
        )
    if kind is None and _are_flags(table, named[0]):
        raise GrigriError(
            f"{table.file}: {label!r} holds 0 and 1 alone: classes named so (--layout label-column)"
            f" or one class {label!r} that an image has or not (--layout one-hot --label-columns"
            f" {label})"
        )
    return "label-column", named, [i for i in left if i not in named]


def _kind_of(table: Table, columns: list[int]) -> Kind:
    flags = [_are_flags(table, i) for i in columns]
    if len(columns) == 1 and flags[0]:
        return "one-hot" if plain(table.header[columns[0]]) not in _LABELS else "label-column"
    if all(flags):
        return "one-hot"
    if any(flags) and not all(flags):
        yes, no = (table.header[columns[flags.index(is_flag)]] for is_flag in (True, False))
        odd = next(v for v in table.values[columns[flags.index(False)]] if not _is_flag(v))
        raise GrigriError(
            f"{table.file}: --label-columns: {yes!r} holds 0 and 1, {no!r} holds {odd[:40]!r}; name"
            " columns of one kind"
        )
    return "label-column"


def _is_flag(cell: str) -> bool:
    return cell.casefold() in FLAGS


def _are_flags(table: Table, column: int) -> bool:
    return are_flags(table.values[column])


def _refuse_damaged(table: Table, columns: list[int]) -> None:
    """Refuse columns of which some cells are 0 or 1 and others are not."""
    for column in columns:
        values = table.values[column]
        usual = next((value for value, _ in values.most_common() if _is_flag(value)), None)
        odd = next((value for value in values if usual and not are_flags([value, usual])), None)
        if odd is not None:
            minus = (
                "; -1 means 'not' with --layout plus-minus and 'not known' with --layout uncertain"
                if odd in ("-1", "-1.0")
                else ""
            )
            raise GrigriError(
                f"{table.where(table.find(column, odd), column)}: {odd[:40]!r} is neither 0 nor 1,"
                f" as its other cells are{minus}"
            )


def _refuse_doubtful(table: Table, columns: list[int], flags: list[int]) -> None:
    """Refuse columns beside 0/1 columns that could hold labels, too."""
    for column in columns:
        if column not in flags and _may_hold_labels(table, column):
            name, first = table.header[column], table.header[flags[0]]
            example = next(value for value in table.values[column] if value)
            raise GrigriError(
                f"{table.file}: the column {name!r} (such as {example[:40]!r}) beside 0/1 columns"
                f" can hold labels, too; --label-columns {name} if it does, else name the 0/1"
                f" columns: --label-columns {first},..."
            )


def _may_hold_labels(table: Table, column: int) -> bool:
    """Whether a column holds words that come back, as labels do, and no numbers."""
    words = {v: n for v, n in table.values[column].items() if v.casefold() not in NO_LABEL}
    if not words or all(re.fullmatch(r"[-+]?[\d.,:/eE+-]*\d[\d.,:/ ]*", word) for word in words):
        return False
    return len(words) <= _FEW_VALUES * sum(words.values()) or any(
        sep in word for word in words for sep in SEPARATORS
    )


def _no_labels(table: Table, others: list[int]) -> GrigriError:
    """Return why no column can be taken for the labels."""
    if not others:
        return GrigriError(f"{table.file}: no column holds labels")
    names = ", ".join(table.header[i] for i in others[:6])
    odd = next((v for v in table.values[others[0]] if not _is_flag(v)), None)
    if odd is None:
        return GrigriError(
            f"{table.file}: no column is named labels; --label-columns says which of {names} holds"
            " them"
        )
    place = table.where(table.find(others[0], odd), others[0])
    return GrigriError(
        f"{place}: {odd[:40]!r} is neither 0 nor 1, and no column is named labels; --label-columns"
        f" says which of {names} holds them"
    )
