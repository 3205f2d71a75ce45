"""XML files of Pascal VOC that lie beside their images, as labelImg and Roboflow leave them."""

from collections.abc import Collection, Container
from dataclasses import dataclass
from pathlib import Path

from ...errors import GrigriError
from . import reading
from .labels import LabelOptions, Labels


@dataclass(frozen=True)
class Objects:
    """What an XML file says of an image.

    Attributes:
        stem: the image's name without suffix.
        flags: 1 for each class that an object has, 0 if all of those are difficult.
        is_named: whether <filename> names that image, too.
    """

    stem: str
    flags: dict[str, int]
    is_named: bool


def read_objects(file: Path, stems: Container[str]) -> Objects:
    """Return the objects of an image. It has the name of the file, or that of <filename>.

    Args:
        file: the XML file.
        stems: the names of the images that are there, without suffix.

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
    written = (top.findtext("filename") or "").replace("\\", "/").rpartition("/")[2].strip()
    if Path(written).suffix.lower() in reading.IMAGE_SUFFIXES:
        written = Path(written).stem
    stem = written if written in stems and file.stem not in stems else file.stem
    return Objects(stem, flags, written in ("", stem))


def notes_on(objects: Collection[Objects]) -> list[str]:
    """Return sentences on what XML files say of images."""
    notes = []
    if any(0 in found.flags.values() for found in objects):
        notes.append('classes marked as "difficult" in an image are unknown there')
    num_other = sum(not found.is_named for found in objects)
    if num_other:
        notes.append(
            f"{reading.counted(num_other, 'file')} with another name in <filename>: the name of "
            f"the .xml itself counts"
        )
    return notes


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
    of: dict[Path, tuple[Path, Objects]] = {}
    num_images = 0
    for folder in found:
        name_of = reading.image_of_stem(folder)
        num_images += len(name_of)
        for file in reading.visible(folder, ".xml"):
            objects = read_objects(file, name_of)
            image = folder / name_of.get(objects.stem, f"{objects.stem}.jpg")
            if image in of:
                raise GrigriError(f"{file}: {image.name} was in {of[image][0]} already")
            of[image] = (file, objects)
    class_names = sorted({name for _, objects in of.values() for name in objects.flags})
    rows, paths = reading.Rows(), list(of)
    for path, (file, objects) in of.items():
        rows.add(
            str(path.relative_to(data)),
            str(file),
            [name for name in class_names if objects.flags.get(name) == 1],
            [name for name in class_names if objects.flags.get(name) == 0],
            "" if path.parent == data else reading.part_of(path.parent.name),
        )
    notes = [f"{reading.counted(len(paths), 'image')}, labels from the .xml beside each"]
    notes += notes_on([objects for _, objects in of.values()])
    num_without = num_images - sum(path.exists() for path in paths)
    if num_without:
        notes.append(f"left out: {reading.counted(num_without, 'image')} without .xml")
    parts = [folder for folder in reading.folders_in(data) if reading.part_of(folder.name)]
    others = [folder.name for folder in parts if folder not in found]
    if others and found != [data]:
        notes.append(f"left out: {', '.join(others)}/, without XML files of Pascal VOC")
    return rows.result(paths, class_names, f"{data} (Pascal VOC)", notes)


def _has_pairs(folder: Path) -> bool:
    files = reading.visible(folder, ".xml")[:20]
    if not any("<annotation>" in reading.head(file, 4096) for file in files):
        return False
    names = {path.stem for path in reading.visible(folder, *reading.IMAGE_SUFFIXES)}
    return any(file.stem in names for file in files)
