"""CVAT for images 1.1: an XML file. An image has the labels of its tags and shapes.

The format: https://docs.cvat.ai/docs/manual/advanced/xml_format/. Exported with its images the file
is ``annotations.xml`` beside ``images/``.
"""

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from ...errors import GrigriError
from . import reading
from .labels import LabelOptions, Labels

_LABELLED = frozenset(
    {
        *("tag", "box", "polygon", "polyline", "points", "cuboid", "mask", "ellipse", "skeleton"),
    }
)
_HEAD = re.compile(r"<annotations\b.*?<(version>1\.1|meta|image|track)\b", re.DOTALL)
_EXPECTED = 'export as "CVAT for images 1.1"'


def is_here(data: Path) -> bool:
    """Return whether ``data`` is an XML file of CVAT, or a folder with one."""
    return _is_cvat(data) if data.is_file() else bool(_files_in(data))


def read(data: Path, options: LabelOptions) -> Labels:
    """Read the labels of a file, or of the only one in a folder.

    Raises:
        GrigriError: if there is none or there are several, or if it is damaged.
    """
    options.require_only("CVAT", "images")
    files = [data] if data.is_file() else _files_in(data)
    names = ", ".join(file.name for file in files)
    file = reading.only(data, files, names, f"no annotations.xml of CVAT; {_EXPECTED}")
    top = reading.read_xml(file)
    if top.tag != "annotations":
        raise GrigriError(f"{file}: <{top.tag[:40]}> is not of CVAT; {_EXPECTED}")
    if top.find("track") is not None:
        raise GrigriError(f"{file}: labels of a video (<track>); {_EXPECTED}")
    class_names = _classes(file, top)
    known = {*class_names}
    rows, subsets, ignored = reading.Rows(), [], set()
    num_shapes = 0
    for number, image in enumerate(top.findall("image")):
        where = f"{file}: image {number}"
        name = reading.image_name(image.get("name"), where)
        labels = []
        for shape in image:
            if shape.tag not in _LABELLED:
                ignored.add(shape.tag)
                continue
            label = reading.class_name(shape.get("label"), f"{where}: <{shape.tag}>")
            if known and label not in known:
                raise GrigriError(f"{where}: {label!r} is not among the labels in <meta>")
            labels.append(label)
        num_shapes += len(labels)
        subset = image.get("subset") or ""
        subsets.append(subset)
        rows.add(name, where, labels, part=reading.part_of(subset))
    if not rows.names:
        raise GrigriError(f"{file}: no images; {_EXPECTED}")
    if not class_names:
        class_names = rows.classes()
    images = reading.counted(len(rows.names), "image")
    notes = [f"{images}, with the labels of {reading.counted(num_shapes, 'annotation')}"]
    without = sum(not labels for labels in rows.labels)
    if without:
        notes.append(f"{reading.counted(without, 'image')} without annotation: no label")
    if next(top.iter("attribute"), None) is not None:
        notes.append("attributes of labels are not read")
    if ignored:
        notes.append(f"left out: {', '.join(f'<{tag[:40]}>' for tag in sorted(ignored))}")
    other = sorted({subset for subset in subsets if subset and not reading.part_of(subset)})
    if other:
        notes.append(f"in no part: the subset {reading.listed(map(repr, other))}")
    paths = _paths(file, rows.names, subsets, options.images)
    return rows.result(paths, class_names, f"{data} (CVAT)", notes)


def _classes(file: Path, top: Element) -> list[str]:
    """Return the labels that <meta> lists; those of a skeleton's points are no classes."""
    meta = top.find("meta")
    found = [] if meta is None else [x for labels in meta.iter("labels") for x in labels]
    names = [
        reading.class_name(label.findtext("name"), f"{file}: <meta>: <label>")
        for label in found
        if label.tag == "label" and not label.findtext("parent")
    ]
    return list(dict.fromkeys(names))


def _paths(file: Path, names: list[str], subsets: list[str], images: Path | None) -> list[Path]:
    """Return where the images are: below images/, perhaps in a folder for each subset."""
    here = file.parent
    bases = [images] if images is not None else [here / "images", here, here.parent / "images"]
    folder_of = {
        subset: reading.fitting_folder(
            [name for name, of in zip(names, subsets, strict=True) if of == subset],
            [folder for base in bases for folder in dict.fromkeys([base, base / subset])],
        )
        for subset in {*subsets}
    }
    return [folder_of[subset] / name for name, subset in zip(names, subsets, strict=True)]


def _is_cvat(file: Path) -> bool:
    return file.suffix.lower() == ".xml" and bool(_HEAD.search(reading.head(file)))


def _files_in(data: Path) -> list[Path]:
    return [file for file in reading.visible(data, ".xml") if _is_cvat(file)]
