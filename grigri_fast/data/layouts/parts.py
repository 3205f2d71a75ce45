"""Label files of the parts of a split, one for each, as one data set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import GrigriError
from .cells import PART_OF
from .labels import Labels
from .reading import counted


def merged(
    data: Path,
    read: Mapping[str, Labels],
    layout: str,
    has_same_classes: bool = True,
) -> Labels:
    """Return the images of all parts, train first, then val, then test.

    Args:
        data: the folder, for messages.
        read: the labels of each part by the name of its folder, which the images' names begin with
            then; one of the name "" stands for all of the data.
        layout: the layout in words.
        has_same_classes: whether the parts must have the same classes, in whatever order.

    Raises:
        GrigriError: if two folders are the same part, or the classes differ.
    """
    order = ("train", "val", "test", "")
    folders = sorted(read, key=lambda name: order.index(PART_OF.get(name.lower(), "")))
    of_part: dict[str, str] = {}
    for name in folders:
        part = PART_OF.get(name.lower(), "")
        if part in of_part:
            raise GrigriError(f"{data}: the folders {of_part[part]} and {name} are both {part!r}")
        of_part[part] = name
    first = read[folders[0]]
    for name in folders[1:] if has_same_classes else []:
        odd = set(first.class_names) ^ set(read[name].class_names)
        if odd:
            word = min(odd)
            here, there = (folders[0], name) if word in first.class_names else (name, folders[0])
            raise GrigriError(f"{data}: the class {word!r} is in {here} and not in {there}")
    if len(folders) == 1 and not folders[0]:
        return replace(first, layout=f"{data} ({layout})")
    all_of = [read[name] for name in folders]
    has_unknown = any(labels.unknown is not None for labels in all_of)
    has_groups = any(labels.groups is not None for labels in all_of)
    nothing: list[str] = []
    notes = [note for labels in all_of for note in labels.notes]
    if len(folders) == 1:
        notes.append(f"only {folders[0]}/ is here, {counted(len(first.names), 'image')}")
    return Labels(
        [f"{name}/{image}" for name in folders for image in read[name].names],
        [path for labels in all_of for path in labels.paths],
        [words for labels in all_of for words in labels.labels],
        list(dict.fromkeys(name for labels in all_of for name in labels.class_names)),
        f"{data} ({layout})",
        unknown=[u for labels in all_of for u in labels.unknown or [nothing] * len(labels.names)]
        if has_unknown
        else None,
        parts=None
        if len(folders) == 1
        else [PART_OF.get(name.lower(), "") for name in folders for _ in read[name].names],
        groups=[g for labels in all_of for g in labels.groups or [""] * len(labels.names)]
        if has_groups
        else None,
        notes=list(dict.fromkeys(notes)),
    )
