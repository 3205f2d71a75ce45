"""Which layout some data have."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ...errors import GrigriError
from . import (
    annotations,
    celeba,
    coco,
    cvat,
    dialects,
    folders,
    hugging_face,
    kaggle,
    label_studio,
    medical,
    metadata,
    nus_wide,
    open_images,
    roboflow,
    signed,
    tables,
    vertex,
    voc,
    yolo,
)
from .labels import LabelOptions, Labels
from .table_files import TABLE_SUFFIXES, advice
from .walk import images_below


@dataclass(frozen=True)
class Layout:
    """A layout that something in it surely identifies.

    Attributes:
        name: for ``--layout``.
        is_here: whether a folder or file has it.
        read: reads it.
    """

    name: str
    is_here: Callable[[Path], bool]
    read: Callable[[Path, LabelOptions], Labels]


def _of_module(name: str, module: ModuleType) -> Layout:
    return Layout(name, module.is_here, module.read)


# Those that are known by what is in them; tables and class folders come after them.
LAYOUTS = [
    _of_module("annotations", annotations),
    _of_module("coco", coco),
    _of_module("voc", voc),
    _of_module("cvat", cvat),
    _of_module("nus-wide", nus_wide),
    _of_module("celeba", celeba),
    _of_module("label-studio", label_studio),
    _of_module("yolo", yolo),
    _of_module("hugging-face", hugging_face),
    _of_module("open-images", open_images),
    Layout("chexpert", medical.is_chexpert, medical.read_chexpert),
    Layout("chest-xray14", medical.is_xray14, medical.read_xray14),
    Layout("planet", kaggle.is_planet, kaggle.read_planet),
    _of_module("metadata", metadata),
    _of_module("roboflow", roboflow),
    _of_module("vertex", vertex),
]
_OF_TABLES = (*tables.KINDS, *signed.KINDS, *(dialect.name for dialect in dialects.DIALECTS))
NAMES = tuple(dict.fromkeys((*(layout.name for layout in LAYOUTS), *_OF_TABLES, *folders.NAMES)))
_EXPECTED = (
    "a folder per class, a table (image,labels or image,<class>,<class>...), or another layout that"
    " `grigri-fast train --help` names at --layout"
)


def read_labels(data: Path, options: LabelOptions) -> Labels:
    """Find out which layout some data have, and read them; see :func:`dataset.load`.

    Raises:
        GrigriError: as there.
        OSError: if a folder cannot be read.
    """
    if options.images is not None and not options.images.is_dir():
        raise GrigriError(f"--images {options.images}: no such folder")
    if options.layout is not None and options.layout not in NAMES:
        raise GrigriError(f"--layout {options.layout}: the layouts are {', '.join(NAMES)}")
    if not data.exists():
        raise GrigriError(f"{data}: no such file or folder; expected {_EXPECTED}")
    return _choose(data, options).read(data, options)


def _choose(data: Path, options: LabelOptions) -> Layout:
    """Return the layout of some data; its ``read`` may be of a file in them."""
    name = options.layout
    asked = next((layout for layout in LAYOUTS if layout.name == name), None)
    if asked is not None:
        return asked
    if name in folders.NAMES:
        if not data.is_dir():
            raise GrigriError(f"{data}: --layout {name} is of a folder, this is a file")
        return Layout(str(name), Path.is_dir, folders.read)
    if name is None:
        known = [layout for layout in LAYOUTS if layout.is_here(data)]
        if len(known) > 1:
            words = " or ".join(layout.name for layout in known)
            raise GrigriError(
                f"{data}: ambiguous, it can be {words}; --layout NAME says which, or name the file"
                " itself as DATA"
            )
        if known:
            return known[0]
    if data.is_file():
        if data.suffix.lower() not in TABLE_SUFFIXES:
            kinds = ", ".join(sorted(TABLE_SUFFIXES))
            what = advice(data) or f"expected {_EXPECTED}"
            raise GrigriError(f"{data} is a file but no {kinds}; {what}")
        return Layout("a table", Path.is_file, dialects.read)
    return _table_or_folders(data, is_table=name is not None)


def _tables_in(folder: Path) -> list[Path]:
    """Return the tables in a folder, without those by which Excel marks that one is open."""
    found = images_below(folder, recursive=False).skipped
    tables = sorted(path for suffix in TABLE_SUFFIXES for path in found.get(suffix, []))
    return [path for path in tables if not path.name.startswith("~$")]


def _table_or_folders(data: Path, is_table: bool) -> Layout:
    """Return how to read a folder in which is nothing that surely identifies a layout."""
    found = _tables_in(data)
    names = ", ".join(path.name for path in found)
    if len(found) > 1:
        raise GrigriError(f"{data}: ambiguous, found {names}; name the table itself as DATA")
    if not found and is_table:
        raise GrigriError(f"{data}: no table ({', '.join(sorted(TABLE_SUFFIXES))}) in this folder")
    if not found:
        return Layout("class-folders", Path.is_dir, folders.read)
    inner = images_below(data, recursive=False).folders
    having = [path for path in inner if images_below(path, recursive=True).images]
    is_of_table = is_table or len(having) < 2
    if not is_of_table:
        raise GrigriError(
            f"{data}: ambiguous, found {found[0].name} and {len(having)} folders of images; name"
            " the table itself as DATA, or read the folders by --layout class-folders"
        )
    known = [layout for layout in LAYOUTS if not is_table and layout.is_here(found[0])]
    read = known[0].read if known else dialects.read
    return Layout("a table", Path.is_file, lambda _, options: read(found[0], options))
