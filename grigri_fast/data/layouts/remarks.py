"""What should be said of the classes that were read: none, all, or twice under like names."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...errors import GrigriError
from .labels import Labels

_SHOWN = 4


def only_classes(labels: Labels, classes: Sequence[str]) -> Labels:
    """Return labels of some of the classes alone, in the order in which they are given.

    Raises:
        GrigriError: if there is no such class, or it is given twice.
    """
    for name, count in Counter(classes).items():
        if name not in labels.class_names:
            some = ", ".join(labels.class_names[:20])
            more = ", ..." if len(labels.class_names) > 20 else ""
            raise GrigriError(
                f"{labels.layout}: --classes {name}: no such class; there are {some}{more}"
            )
        if count > 1:
            raise GrigriError(f"--classes names {name} twice")
    kept = set(classes)

    def of_kept(words: Iterable[Sequence[str]]) -> list[list[str]]:
        return [[word for word in of_one if word in kept] for of_one in words]

    others = [name for name in labels.class_names if name not in kept]
    notes = [f"left out by --classes: {_some(others)}"] if others else []
    return replace(
        labels,
        labels=of_kept(labels.labels),
        class_names=list(classes),
        unknown=None if labels.unknown is None else of_kept(labels.unknown),
        notes=[*labels.notes, *notes],
    )


def of_parts(labels: Labels) -> list[str]:
    """Return a sentence about the split that the data come with, if there is one."""
    if labels.parts is None:
        return []
    counts = Counter(labels.parts)
    order = [part for part in ("train", "val", "test", "") if counts[part]]
    said = ", ".join(f"{counts[part]:,} {part or 'in no part'}" for part in order)
    return [f"the data come with a split: {said}"]


def of_classes(labels: Labels) -> list[str]:
    """Return sentences about classes that none or all images have, or that have like names."""
    count = Counter(label for words in labels.labels for label in words)
    num_images = len(labels.names)
    notes = []
    without = [name for name in labels.class_names if not count[name]]
    if without:
        notes.append(f"no image has: {_some(without)}")
    everywhere = [name for name in labels.class_names if count[name] == num_images]
    if everywhere and num_images > 1:
        notes.append(f"all images have, so there is nothing to learn: {_some(everywhere)}")
    alike: dict[str, list[str]] = {}
    for name in labels.class_names:
        alike.setdefault(_plain(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(f"{name!r} ({count[name]:,} images)" for name in names[:3])
            notes.append(f"almost the same name, yet two classes: {shown}")
    return notes


def _plain(name: str) -> str:
    """Return a name without what is easily written in two ways: case, spaces, ends and so on."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_\-]+", "", folded).strip(".,;:|/\"'`*") or folded


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
