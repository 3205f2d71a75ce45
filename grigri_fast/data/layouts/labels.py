"""What a reader of labels gets and returns."""

import csv
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from PIL import features

from ...errors import GrigriError, UsageError
from ...runtime.files import StrPath

_ALWAYS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".mpo", ".png"),
    *(".webp", ".bmp", ".dib", ".tif", ".tiff"),
)
_HEIF = (".heic", ".heif", ".hif")
_reads_heif = importlib.util.find_spec("pillow_heif") is not None
_reads_avif = features.check("avif")

# Suffixes of the files that are images, in lower case: compare with path.suffix.lower().
IMAGE_SUFFIXES = frozenset(
    {*_ALWAYS, *(_HEIF if _reads_heif else ()), *((".avif",) if _reads_avif else ())}
)
# What to install for images that are not read here.
OPTIONAL_SUFFIXES = {
    suffix: f"to read them: pip install {'pillow-heif' if suffix in _HEIF else '-U pillow'}"
    for suffix in {*_HEIF, ".avif"} - IMAGE_SUFFIXES
}
# Fields of LabelOptions that every layout has a use for.
_OF_EVERY_LAYOUT = ("layout", "classes", "groups", "corrections")


class HowLabels(TypedDict, total=False):
    """How labels are to be read, as functions take it; see :class:`LabelOptions`.

    A list of names may be a text with commas, as on the command line.
    """

    layout: str | None
    image_column: str | None
    label_columns: str | Sequence[str] | None
    separator: str | None
    no_label: str | Sequence[str] | None
    split_column: str | None
    group_column: str | None
    classes: str | Sequence[str] | None
    groups: StrPath | None
    corrections: StrPath | None


@dataclass(frozen=True)
class LabelOptions:
    """How labels are to be read, where the reader is not to find out by itself.

    Attributes:
        images: the folder that the names in a table or a JSON file are relative to.
        layout: the name of the layout, one of :data:`detect.LAYOUTS`.
        image_column: the column with the images' names.
        label_columns: the column of labels, or the 0/1 columns of the classes; empty: found out.
        separator: what stands between the labels of a cell; "" if a cell is one label.
        no_label: words that mean "no label" instead of the usual ones; None: the usual ones.
        split_column: the column that says to which part an image belongs.
        group_column: the column of what must stay together in a split, such as the patient.
        classes: the classes to learn; other labels are left out. Empty: all.
        groups: a table of images that stay in one part of a split (see :mod:`groups`).
        corrections: a table of corrected labels (see :mod:`corrections`).
    """

    images: Path | None = None
    layout: str | None = None
    image_column: str | None = None
    label_columns: tuple[str, ...] = ()
    separator: str | None = None
    no_label: tuple[str, ...] | None = None
    split_column: str | None = None
    group_column: str | None = None
    classes: tuple[str, ...] = ()
    groups: Path | None = None
    corrections: Path | None = None

    def require_only(self, layout: str, *allowed: str) -> None:
        """Refuse the options that a layout has no use for.

        Args:
            layout: the layout in words, for the message.
            allowed: the fields that the layout's reader uses, beside those of every layout and no
                ``split_column``.

        Raises:
            UsageError: if another field is set.
        """
        for option in fields(self):
            is_set = getattr(self, option.name) != option.default
            if option.name == "split_column" and self.split_column == "none":
                continue  # it turns off whatever says the parts
            if is_set and option.name not in (*_OF_EVERY_LAYOUT, *allowed):
                word = "--" + option.name.replace("_", "-")
                raise UsageError(f"{word} does not go with {layout}; leave it out")

    @classmethod
    def of(cls, images: StrPath | None = None, **options: Any) -> "LabelOptions":
        """Return options of texts, as the command line has them, or of lists of names.

        Raises:
            GrigriError: for a list of names that is no line of a CSV.
            TypeError: for an option that there is not.
        """
        for name in ("label_columns", "no_label", "classes"):
            if isinstance(options.get(name), str):
                options[name] = _names(name, options[name])
            elif options.get(name) is not None:
                options[name] = tuple(options[name])
        for name in ("groups", "corrections"):
            if options.get(name) is not None:
                options[name] = Path(options[name])
        given = {name: value for name, value in options.items() if value is not None}
        return cls(images=None if images is None else Path(images), **given)


def _names(option: str, text: str) -> tuple[str, ...]:
    """Return the names in a text; one with a comma stands in quotes."""
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as e:
        raise GrigriError(f"--{option.replace('_', '-')} {text!r}: not a list of names: {e}") from e
    return tuple(name.strip() for row in rows for name in row if name.strip())


@dataclass(frozen=True)
class Labels:
    """What a reader returns: image i is the file ``paths[i]`` and has the classes ``labels[i]``.

    Attributes:
        names: the images' names (N), unique and stable: what a split file holds.
        paths: where the images are (N). They need not exist.
        labels: the classes of each image (N).
        class_names: the classes' names (C).
        layout: where the labels are and in which layout, in a few words; messages begin with it.
        unknown: the classes of which it is not known whether an image has them (N); None: there
            are no such.
        parts: "train", "val", "test" or "" (in no part) of each image (N), where the data come with
            a split; None: they do not.
        groups: the name of each image's group, "" if it is in none (N); images of a group stay in
            one part. None: there are no groups.
        notes: how the labels were read, a sentence each, for the user: which column is what, the
            separator, what was ignored or left out and why.
    """

    names: Sequence[str]
    paths: Sequence[Path]
    labels: Sequence[Sequence[str]]
    class_names: list[str]
    layout: str
    unknown: Sequence[Sequence[str]] | None = None
    parts: list[str] | None = None
    groups: list[str] | None = None
    notes: list[str] = field(default_factory=list)
