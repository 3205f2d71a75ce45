"""XML files of Pascal VOC that lie beside their images, as labelImg and Roboflow leave them."""

from pathlib import Path

from ...errors import GrigriError
from . import reading
from .labels import LabelOptions, Labels


def read_objects(file: Path) -> dict[str, int]:
    """Return 1 for each class that an object in an XML file has, 0 if all of those are difficult.

    Raises:
        GrigriError: if the file is damaged or another kind of XML.
    """
    top = reading.read_xml(file)
    if top.tag != "annotation":
        raise GrigriError(f"{file}: <{top.tag[:40]}> is no annotation of Pascal VOC")
    flags: dict[str, int] = {}
    for thing in top.findall("object"):
        name = reading.class_name(thing.findtext("name"), f"{file}: <object><name>")
        difficult = (thing.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise GrigriError(f"{file}: <difficult> must be 0 or 1, not {difficult[:40]!r}")
        flags[name] = max(flags.get(name, 0), 1 - int(difficult))
    return flags


def folders(data: Path) -> list[Path]:
    """Return the folder itself if there are XML files beside images, else its train/, valid/ ..."""
    if _has_pairs(data):
        return [data]
    parts = [folder for folder in reading.folders_in(data) if reading.part_of(folder.name)]
    return [folder for folder in parts if _has_pairs(folder)]


def read(data: Path, found: list[Path], options: LabelOptions) -> Labels:
    """Read the XML files in folders, each of which is a part if it is not ``data`` itself.

    Raises:
        GrigriError: if a file is damaged, or an option does not fit.
    """
    options.require_only("Pascal VOC's XML files beside the images")
    rows, paths, flags_of = reading.Rows(), [], {}
    num_images = 0
    for folder in found:
        name_of = reading.image_of_stem(folder)
        num_images += len(name_of)
        for file in reading.visible(folder, ".xml"):
            flags_of[folder / name_of.get(file.stem, f"{file.stem}.jpg")] = (
                file,
                read_objects(file),
            )
    class_names = sorted({name for _, flags in flags_of.values() for name in flags})
    for path, (file, flags) in flags_of.items():
        rows.add(
            str(path.relative_to(data)),
            str(file),
            [name for name in class_names if flags.get(name) == 1],
            [name for name in class_names if flags.get(name) == 0],
            "" if path.parent == data else reading.part_of(path.parent.name),
        )
        paths.append(path)
    notes = [f"{reading.counted(len(paths), 'image')}, labels from the .xml beside each"]
    if any(0 in flags.values() for _, flags in flags_of.values()):
        notes.append('classes marked as "difficult" in an image are unknown there')
    num_without = num_images - sum(path.exists() for path in paths)
    if num_without:
        notes.append(f"left out: {reading.counted(num_without, 'image')} without .xml")
    return rows.result(paths, class_names, f"{data} (Pascal VOC)", notes)


def _has_pairs(folder: Path) -> bool:
    files = reading.visible(folder, ".xml")[:20]
    if not any("<annotation>" in reading.head(file, 4096) for file in files):
        return False
    names = {path.stem for path in reading.visible(folder, *reading.IMAGE_SUFFIXES)}
    return any(file.stem in names for file in files)
