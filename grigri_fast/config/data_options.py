"""The options about data: where they are, how their labels are read, and what is used of them."""

import functools
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..runtime.files import StrPath
from ..runtime.option import Converted, Option, Range, option, options_of

# A path may be given as a Path, and is stored as text.
if TYPE_CHECKING:
    OptionalPath: TypeAlias = Converted[str | None, StrPath | None]
else:
    OptionalPath = str | None

MAX_PIXELS = 100_000_000  # the default of --max-pixels: 300 MB decoded
_SHARE = Range(0, 1)

LayoutName: TypeAlias = Literal[
    "class-folders",
    "single-label-folders",
    "one-hot",
    "label-column",
    "long",
    "plus-minus",
    "uncertain",
    "annotations",
    "coco",
    "voc",
    "cvat",
    "nus-wide",
    "celeba",
    "label-studio",
    "yolo",
    "hugging-face",
    "open-images",
    "chexpert",
    "chest-xray14",
    "planet",
    "metadata",
    "roboflow",
    "vertex",
    "predictions",
    "fastai",
    "long-values",
]
_LABELS = "Labels"

of_data, of_labels = (functools.partial(option, group=group) for group in ("Data", _LABELS))


@dataclass(frozen=True)
class DataOptions:
    """Which data, how their labels are read, and what is used of them."""

    data: OptionalPath = of_data(None, "Photographs and labels.", is_input=True, may_change=True)
    _: KW_ONLY
    images: OptionalPath = of_data(
        None, "Folder that a CSV's image names are relative to.", is_input=True, may_change=True
    )
    layout: LayoutName | None = of_labels(
        None, "Layout of the labels, if it is not recognised.", unset="what the files show"
    )
    image_column: str | None = of_labels(None, "Column of a table that names the images.")
    label_columns: str | None = of_labels(
        None, "Column of a table with the labels, or its 0/1 columns: names with commas."
    )
    separator: str | None = of_labels(
        None,
        "What separates the labels in a cell: a character, or space, comma, semicolon, pipe, tab; "
        "none: a cell is one label.",
    )
    no_label: str | None = of_labels(
        None,
        'Words that mean "no label", with commas; "" for none.',
        unset="nan, none, null, n/a and the like",
    )
    split_column: str | None = of_labels(
        None,
        "Column of a table that says which part an image is in: train, val or test; none: there is "
        "none.",
        unset="split, is_valid and the like",
    )
    group_column: str | None = of_labels(
        None,
        "Column of a table with the group of an image, such as its patient; a group stays in one "
        "part; none: there is none.",
        unset="patient_id, group and the like",
    )
    groups: OptionalPath = of_labels(
        None,
        "Table of groups, which stay in one part: near-duplicates.csv of data check --deep, or two "
        "columns, image and group.",
        is_input=True,
    )
    corrections: OptionalPath = of_labels(
        None,
        "Table of corrected labels, as serve writes it: image, class, value (1, 0, unknown, "
        "given).",
        is_input=True,
    )
    classes: str | None = of_labels(
        None, "Learn these classes only, in this order: names with commas.", unset="all there are"
    )
    val: float | None = of_data(
        None,
        "Share of the images for validation.",
        Range(0, 1, open_low=True),
        unset="0.2, or the data's own split",
    )
    test: float | None = of_data(
        None, "Share held back as a test part.", _SHARE, unset="0, or the data's own split"
    )
    split: OptionalPath = of_data(
        None,
        "Split file written by `data split --out`, or a folder with train.txt, val.txt and perhaps "
        "test.txt: a name per line.",
        is_input=True,
    )
    limit: int | None = of_data(
        None, "Use only N images, drawn at random, for a quick trial.", Range(1)
    )
    max_bad: float | None = of_data(
        None,
        "Share of images that may be unusable: they are left out, named in quarantine.csv.",
        _SHARE,
        fallback=0.05,
        may_change=True,
    )
    strict: bool = of_data(False, "Stop at the first image that cannot be used.", may_change=True)
    max_pixels: int = of_data(
        MAX_PIXELS, "Images with more pixels are refused unread.", Range(1), may_change=True
    )

    @property
    def how_labels(self) -> dict[str, str]:
        """Return how labels are to be read, as :func:`data.dataset.load` takes it."""
        given = {name: getattr(self, name) for name in LABEL_OPTIONS}
        return {name: value for name, value in given.items() if value is not None}


LABEL_OPTIONS: dict[str, Option] = {
    name: about for name, about in options_of(DataOptions).items() if about.group == _LABELS
}
