"""COCO: a JSON file of images, boxes and categories. An image has the labels of its boxes.

The format: https://cocodataset.org/#format-data. Beside the makers' own folder (``annotations/
instances_train2017.json`` and ``train2017/``) those are read that Roboflow, CVAT and Label Studio
write.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import GrigriError
from . import reading
from .labels import LabelOptions, Labels

_KEYS = ("images", "annotations", "categories")
_LISTS = re.compile(rf'"({"|".join(_KEYS)})"\s*:\s*\[')
# Files of the makers that hold no boxes of categories, or only those of persons.
_OTHER_FILES = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
_ROBOFLOW = "_annotations.coco.json"
_EXPECTED = (
    "expected a JSON file with images, annotations and categories, or a folder with "
    "annotations/instances_train2017.json or the like"
)


def is_here(data: Path) -> bool:
    """Return whether ``data`` is a COCO file, or a folder with one where COCO has it."""
    return _is_coco(data) if data.is_file() else bool(_files_in(data))


def read(data: Path, options: LabelOptions) -> Labels:
    """Read one COCO file, or those of a folder, each of which is a part of the data then.

    Raises:
        GrigriError: if there is none, if it is not clear which one to read, or if one is damaged.
    """
    options.require_only("COCO", "images")
    files = [data] if data.is_file() else _files_in(data)
    ignored = [file for file in files if len(files) > 1 and file.name.startswith(_OTHER_FILES)]
    files = [file for file in files if file not in ignored]
    if not files:
        names = ", ".join(file.name for file in ignored)
        raise GrigriError(
            f"{data}: {f'only {names}, which have no boxes' if names else 'no COCO file'}; "
            f"{_EXPECTED}"
        )
    tags = [_tag(file) for file in files]
    found = [reading.part_of(tag) for tag in tags]
    if len(files) > 1 and (not all(found) or len(set(found)) < len(found)):
        names = ", ".join(str(file.relative_to(data)) for file in files)
        raise GrigriError(
            f"{data}: found {names}, which are not one train, val and test part each; name one of "
            f"them as DATA"
        )
    rows, paths, notes, num_without = reading.Rows(), [], [], 0
    class_names: dict[str, None] = {}
    for file, tag, part in zip(files, tags, found, strict=True):
        content = _Content(file)
        if content.num_boxes == 0 and len(files) > 1:
            if part != "test":
                raise GrigriError(f"{file}: {len(content.images):,} images and no boxes")
            notes.append(f"left out: {file.name}, which has no boxes")
            continue
        class_names.update(dict.fromkeys(content.class_names))
        folder = reading.fitting_folder(
            [image.name for image in content.images], _folders(file, tag, options.images)
        )
        for number, image in enumerate(content.images):
            name = image.name
            if len(files) > 1 and not name.startswith(f"{tag}/"):
                name = f"{tag}/{name}"
            where = f"{file}: images[{number}]"
            rows.add(name, where, image.labels, part=part if len(files) > 1 else "")
            paths.append(folder / image.name)
        notes.append(content.in_words(_relative(folder, data)))
        num_without += sum(not image.labels for image in content.images)
    if num_without:
        notes.append(f"{reading.counted(num_without, 'image')} without a box: no label")
    if ignored:
        notes.append(f"{', '.join(file.name for file in ignored)}: not read, no boxes of objects")
    return rows.result(paths, list(class_names), f"{data} (COCO)", notes)


@dataclass
class _Image:
    name: str
    labels: list[str] = field(default_factory=list)


class _Content:
    """What a COCO file says: the images with their labels, and the classes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        top = reading.read_json(file)
        if not isinstance(top, dict):
            raise GrigriError(f"{file}: not COCO; {_EXPECTED}")
        for key in _KEYS:
            if not isinstance(top.get(key), list):
                have = "no list" if key in top else "nothing"
                raise GrigriError(f"{file}: {have} named {key!r}; {_EXPECTED}")
        category_of = self._categories(top["categories"])
        images = self._images(top["images"])
        self.num_boxes, self.num_crowds = len(top["annotations"]), 0
        used = set()
        for number, box in enumerate(top["annotations"]):
            where = f"{file}: annotations[{number}]"
            image = images.get(_id(box, "image_id", where))
            category = _id(box, "category_id", where)
            if image is None:
                raise GrigriError(f"{where}: no image has the id {box['image_id']!r}")
            if category not in category_of:
                raise GrigriError(f"{where}: no category has the id {category!r}")
            image.labels.append(category_of[category])
            used.add(category)
            self.num_crowds += box.get("iscrowd") == 1
        self.images = list(images.values())
        self.class_names = self._classes(category_of, used, top["categories"])

    def _categories(self, records: list[Any]) -> dict[int | str, str]:
        """Return the names of the categories by their ids."""
        name_of: dict[int | str, str] = {}
        for number, record in enumerate(records):
            where = f"{self.file}: categories[{number}]"
            key = _id(record, "id", where)
            if key in name_of:
                raise GrigriError(f"{where}: the id {key!r} stands there twice")
            if "keypoints" in record:
                raise GrigriError(
                    f"{where}: a file of keypoints, which lists only images of some classes; "
                    f"name the instances_*.json"
                )
            name_of[key] = reading.class_name(record.get("name"), where)
        if not name_of:
            raise GrigriError(f"{self.file}: no categories; {_EXPECTED}")
        return name_of

    def _images(self, records: list[Any]) -> dict[int | str, _Image]:
        images: dict[int | str, _Image] = {}
        for number, record in enumerate(records):
            where = f"{self.file}: images[{number}]"
            key = _id(record, "id", where)
            if key in images:
                raise GrigriError(f"{where}: the id {key!r} stands there twice")
            if "neg_category_ids" in record:
                raise GrigriError(
                    f"{where}: LVIS, which leaves unsaid of most classes whether an image has "
                    f"them; this is not read"
                )
            if "file_name" not in record:
                raise GrigriError(f"{where}: no file_name")
            images[key] = _Image(reading.image_name(record["file_name"], where))
        if not images:
            raise GrigriError(f"{self.file}: no images; {_EXPECTED}")
        return images

    def _classes(
        self, category_of: dict[int | str, str], used: set[int | str], records: list[Any]
    ) -> list[str]:
        """Return the classes. Roboflow's first category names the project, and is no class."""
        parents = {str(record.get("supercategory")) for record in records[1:]}
        first = next(iter(category_of))
        if len(records) > 1 and parents == {category_of[first]} and first not in used:
            category_of = {key: name for key, name in category_of.items() if key != first}
        key_of: dict[str, int | str] = {}
        for key, name in category_of.items():
            if name in key_of:
                raise GrigriError(
                    f"{self.file}: the categories {key_of[name]!r} and {key!r} are both named "
                    f"{name!r}; rename one"
                )
            key_of[name] = key
        return list(key_of)

    def in_words(self, folder: str) -> str:
        """Return a sentence on what was read."""
        crowds = f" ({self.num_crowds:,} around crowds)" if self.num_crowds else ""
        return (
            f"{self.file.name}: {reading.counted(len(self.images), 'image')} in {folder}, "
            f"{reading.counted(self.num_boxes, 'box')}{crowds}"
        )


def _id(record: Any, key: str, where: str) -> int | str:
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, float) and value.is_integer():  # pandas makes such of whole numbers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise GrigriError(f"{where}: no {key} (a number)")
    return value


def _is_coco(file: Path) -> bool:
    """Return whether a file is named like COCO, or begins and ends like it: it may be large."""
    if file.suffix.lower() != ".json":
        return False
    if file.name == _ROBOFLOW or file.name.startswith("instances_"):
        return file.is_file()  # if it is damaged, it is not to be overlooked
    start = reading.head(file)
    if not start.lstrip().startswith("{"):
        return False
    return len(set(_LISTS.findall(start + " " + reading.head(file, end=True)))) >= 2


def _files_in(data: Path) -> list[Path]:
    """Return the COCO files of a folder: in annotations/, else in itself, else Roboflow's."""
    for folder in (data / "annotations", data):
        files = [file for file in reading.visible(folder, ".json") if _is_coco(file)]
        if files:
            return files
    folders = [folder for folder in reading.folders_in(data) if reading.part_of(folder.name)]
    return [folder / _ROBOFLOW for folder in folders if _is_coco(folder / _ROBOFLOW)]


def _tag(file: Path) -> str:
    """Return what names a file's part, such as train2017."""
    if file.name == _ROBOFLOW:
        return file.parent.name
    return re.sub(r"^(instances|annotations|coco)[_-]|[_-](annotations|coco)$", "", file.stem)


def _relative(folder: Path, data: Path) -> str:
    """Return a folder in words, short where it is in the data's."""
    is_inside = data.is_dir() and folder.is_relative_to(data) and folder != data
    return f"{folder.relative_to(data)}/" if is_inside else str(folder)


def _folders(file: Path, tag: str, images: Path | None) -> Sequence[Path]:
    """Return where a file's images may be."""
    if images is not None:
        return [images, images / tag]
    here = file.parent
    if file.name == _ROBOFLOW:
        return [here]
    root = here.parent if here.name == "annotations" else here
    below = [root / "images" / tag, root / "images", root, here, here / "images", root / "data"]
    return [root / tag, *below] if reading.part_of(tag) else [root, root / tag, *below]
