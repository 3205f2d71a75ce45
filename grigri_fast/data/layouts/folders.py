"""A folder per class; the same file in several folders is one image with several labels."""

import filecmp
import re
from pathlib import Path

from ...errors import GrigriError
from .cells import PART_OF
from .labels import LabelOptions, Labels
from .walk import Found, images_below, skipped_in_words

NAMES = ("class-folders", "single-label-folders")

# What other layouts call their folders, in lower case and without digits, dashes and underscores.
_NO_CLASSES = frozenset(
    {
        *("images", "image", "imgs", "img", "jpegimages", "jpgs", "annotations", "annotation"),
        *("labels", "label", "masks", "mask", "segmentationclass", "segmentationobject"),
        *("imagesets", "imageset", "leftimgbit", "gtfine", "gtcoarse", "groundtruth", "depth"),
        *("thumbnails", "thumbs", "originals", "frames", "videos", "bboxes", "boxes"),
        *("predictions", "results", "output", "dcim"),
    }
)
# How cameras and photo programs name folders: 2024, 2024-05, 20240517, 100CANON.
_DATES = re.compile(r"(19|20)\d\d([-_. ]?[01]\d([-_. ]?[0-3]\d)?)?|\d{3}[A-Z_]{5}")
_SIDECARS = frozenset({".xml", ".json", ".txt", ".npy", ".mat", ".csv", ".yaml"})


def read(data: Path, options: LabelOptions) -> Labels:
    """Read a folder per class; images beside the folders have no label.

    Folders within a class folder belong to that class. Where all folders are named after parts
    (``train``, ``val``, ``test``), the class folders are in them.

    Raises:
        GrigriError: if there are no images, or the folders may be something else than classes.
        OSError: if a folder cannot be read.
    """
    options.require_only("class folders")
    is_asked = options.layout in NAMES
    top = images_below(data, recursive=False)
    parts = {path: PART_OF[path.name.lower()] for path in top.folders if _is_part(path)}
    others = [path for path in top.folders if path not in parts and _has_images(path)]
    if parts and others:
        if not is_asked:
            raise GrigriError(
                f"{data}: {next(iter(parts)).name}/ is a part of a split and {others[0].name}/ is"
                " none; --layout class-folders takes both for classes"
            )
        parts = {}
    roots = parts or {data: ""}
    found = [_in_root(root, part, top if root == data else None) for root, part in roots.items()]
    class_names = sorted({name for root in found for name in root.folders})
    if not any(root.folders for root in found):
        raise _nothing(data, top, bool(parts))
    if not is_asked:
        _refuse_doubtful(data, found, class_names)
    images: dict[tuple[str, str], list[tuple[Path, str]]] = {}
    for root in found:
        for name, path, relative in root.files:
            of_one = relative if options.layout == "single-label-folders" else path.name
            images.setdefault((root.part, of_one), []).append((path, name))
    if options.layout != "single-label-folders":
        _refuse_namesakes(images)
    keys = sorted(images)
    notes = _notes(found)
    if parts and top.images:
        notes.append(f"left out: {len(top.images):,} images beside the folders of the parts")
    return Labels(
        [name if len(roots) == 1 else f"{part}/{name}" for part, name in keys],
        [images[key][0][0] for key in keys],
        [list(dict.fromkeys(label for _, label in images[key] if label)) for key in keys],
        class_names,
        f"{data} (class folders)",
        parts=[part for part, _ in keys] if parts else None,
        notes=notes,
    )


class _Root:
    """A folder of class folders: its classes, and (class, path, name) of each image."""

    def __init__(self, folder: Path, part: str) -> None:
        self.folder = folder
        self.part = part
        self.folders: dict[str, Found] = {}
        self.empty: list[str] = []
        self.files: list[tuple[str, Path, str]] = []
        self.skipped: dict[str, list[Path]] = {}


def _in_root(folder: Path, part: str, top: Found | None) -> _Root:
    root = _Root(folder, part)
    top = top or images_below(folder, recursive=False)
    founds = [top]
    root.files += (("", path, path.name) for path in top.images)
    for inner in top.folders:
        found = images_below(inner, recursive=True)
        founds.append(found)
        if not found.images:
            root.empty.append(inner.name)
            continue
        root.folders[inner.name] = found
        root.files += (
            (inner.name, path, path.relative_to(folder).as_posix()) for path in found.images
        )
    for found in founds:
        for reason, paths in found.skipped.items():
            root.skipped.setdefault(reason, []).extend(paths)
    return root


def _is_part(path: Path) -> bool:
    return bool(PART_OF.get(path.name.lower()))


def _has_images(folder: Path) -> bool:
    return bool(images_below(folder, recursive=True).images)


def _nothing(data: Path, top: Found, has_parts: bool) -> GrigriError:
    skipped = f" (skipped: {top.in_words()})" if top.skipped else ""
    if top.images:
        return GrigriError(f"{data}: {len(top.images)} images but no labels{skipped}")
    if has_parts:
        names = ", ".join(sorted(p.name for p in top.folders))
        return GrigriError(f"{data}: no class folders in {names}, which are no classes")
    return GrigriError(f"{data}: no images{skipped}")


# ---------------------------------------------------------------- folders that may be no classes


def _refuse_doubtful(data: Path, roots: list[_Root], class_names: list[str]) -> None:
    """Refuse folders that other layouts have, or that are sorted by something else than class."""
    choice = "--layout class-folders takes them for classes all the same"
    for name in [*class_names, *(name for root in roots for name in root.empty)]:
        if re.sub(r"[\d_\- ]", "", name.lower()) in _NO_CLASSES:
            others = ", ".join(class_names[:4])
            raise GrigriError(
                f"{data}: the folder {name!r} is no class but belongs to a layout that is not known"
                f" here (folders of images: {others}); {choice}"
            )
    if len(class_names) == 1:
        (only,) = class_names
        inner = [root.folder / only for root in roots if only in root.folders]
        has_folders = any(images_below(folder, recursive=False).folders for folder in inner)
        advice = f"name {data / only} if the class folders are in it; " if has_folders else ""
        raise GrigriError(
            f"{data}: {only!r} is the only folder of images, so it would be the label of all;"
            f" {advice}{choice}"
        )
    if all(_DATES.fullmatch(name) for name in class_names):
        raise GrigriError(
            f"{data}: folders such as {class_names[0]!r} and {class_names[1]!r} look like dates,"
            f" not like classes; {choice}"
        )
    for root in roots:
        for name, found in root.folders.items():
            beside = {
                path.stem
                for suffix, paths in found.skipped.items()
                if suffix in _SIDECARS
                for path in paths
            }
            images = {path.stem for path in found.images}
            if images and len(beside & images) * 2 > len(images):
                example = sorted(beside & images)[0]
                raise GrigriError(
                    f"{data}: {name}/ has a label file beside each image (such as {example}.*),"
                    f" which would not be read; {choice}"
                )
        for name in root.empty:
            beside_none = images_below(root.folder / name, recursive=True).skipped
            if any(suffix in _SIDECARS for suffix in beside_none):
                raise GrigriError(
                    f"{data}: {name}/ has files of labels, in a layout that is not known here;"
                    f" {choice}"
                )


def _refuse_namesakes(images: dict[tuple[str, str], list[tuple[Path, str]]]) -> None:
    """Refuse different pictures of one name: are they one image with several labels, or not?"""
    for copies in images.values():
        first = copies[0][0]
        for path, _ in copies[1:]:
            if first.resolve() != path.resolve() and not filecmp.cmp(first, path, shallow=False):
                raise GrigriError(
                    f"{first} and {path} have one name but are different pictures; --layout"
                    " single-label-folders takes every file for an image of its own; else rename"
                    " one, or make them the same file if it is one image with two labels"
                )


def _notes(roots: list[_Root]) -> list[str]:
    notes = []
    files = [file for root in roots for file in root.files]
    nested = [
        (name, relative) for name, path, relative in files if name and path.parent.name != name
    ]
    if nested:
        name, relative = nested[0]
        notes.append(
            f"{len(nested):,} images are in folders within class folders"
            f" ({relative.rpartition('/')[0]}/ counts as {name!r})"
        )
    num_loose = sum(not name for name, _, _ in files)
    if num_loose:
        notes.append(f"{num_loose:,} images beside the class folders have no label")
    empty = sorted({name for root in roots for name in root.empty})
    if empty:
        more = f" and {len(empty) - 4} more" if len(empty) > 4 else ""
        notes.append(f"no images, so no class: {', '.join(f'{n}/' for n in empty[:4])}{more}")
    skipped: dict[str, list[Path]] = {}
    for root in roots:
        for reason, paths in root.skipped.items():
            skipped.setdefault(reason, []).extend(paths)
    if skipped:
        notes.append(f"left out: {skipped_in_words(skipped)}")
    return notes
