"""Are damaged label files read as something else without a word? The part of fuzz.py that asks.

A sample of every layout (``tests/label_samples.py``) has one of its label files damaged. It is
refused in one line, or read. What is read is compared with the sample as it was, by these rules:

1. *Intact rows are read as before.* The labels, the unknown labels, the part and the group of an
   image are those of before, unless a line that the damage touched (removed, changed or added,
   compared line by line) names the image or the class in question.
2. *Or it is said.* A difference that rule 1 does not explain is in order where one of the sentences
   about how the labels were read is new: columns, separator, what means no label, what is left out.
3. *Nothing is invented.* A class that was not there before stands in one of the files.

What no reader can see is in order by these rules: a cell that was ``cat`` and is ``cab``, a row
that is gone with its line end. Where a line belongs to an image by its place alone (NUS-WIDE), the
image counts as named by its line; where a file belongs to one image or class (YOLO, VOC), its path
counts as touched, too. A workbook's parts have checksums, so a damaged one is refused or read as
before, exactly. Parquet and Arrow files have none, and a byte of a cell cannot be told from
another: rule 1 is not asked of them.
"""

import os
import random
import re
import resource
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from damage import damaged

sys.path.append(str(Path(__file__).parent.parent / "tests"))

_BY_PLACE = frozenset({"nus-wide"})  # line i of a file is of image i of the list
_WITHOUT_CHECKSUMS = (".parquet", ".arrow")
_MORE_MEMORY_KIB = 600 * 1024


@cache
def samples() -> dict:
    """Return the samples of all layouts."""
    import label_samples

    return {**label_samples.tables(), **label_samples.folders()}


@cache
def _files() -> list[tuple[str, str]]:
    """Return (layout, file) of all label files, text before images."""
    return [(layout, name) for layout, sample in samples().items() for name in sample.files]


def _content(layout: str, name: str) -> bytes:
    content = samples()[layout].files[name]
    return content if isinstance(content, bytes) else content.encode()


def label_input(number: int, seed: int) -> tuple[str, str, bytes]:
    """Return the layout, the file that is damaged, and its damaged content of input ``number``."""
    rng = random.Random(f"label {seed} {number}")
    layouts = sorted(samples())
    layout = layouts[number % len(layouts)]
    name = rng.choice(sorted(samples()[layout].files))
    others = [_content(layout, other) for other in samples()[layout].files]
    if rng.random() < 0.2:  # pieces of other layouts
        others.append(_content(*rng.choice(_files())))
    return layout, name, damaged(_content(layout, name), others, rng, is_table=True)


class Reading:
    """What was read, by the images' paths."""

    def __init__(self, data: Path, layout: str | None) -> None:
        from grigri_fast.data import dataset
        from grigri_fast.data.layouts import LabelOptions, read_labels, remarks

        labels = read_labels(data, LabelOptions(layout=layout))
        size = len(labels.names)
        unknown = labels.unknown or [[]] * size
        parts, groups = labels.parts or [""] * size, labels.groups or [""] * size
        self.of = {
            str(labels.paths[i]): (
                frozenset(labels.labels[i]),
                frozenset(unknown[i]),
                parts[i],
                groups[i],
            )
            for i in range(size)
        }
        assert len({*labels.names}) == size == len(labels.labels), "names repeat"
        self.class_names = set(labels.class_names)
        self.notes = {*labels.notes, *remarks.of_classes(labels)}
        assert not any("\n" in note for note in labels.notes)
        dataset.load(data, layout=layout)


def differences(before: Reading, after: Reading) -> Iterator[tuple[str, str | None]]:
    """Yield the images, with the class if it is one, of which something else was read."""
    for name in before.of.keys() | after.of.keys():
        old, new = before.of.get(name), after.of.get(name)
        if old is None or new is None:
            yield name, None
            continue
        for mine, other in zip(old[:2], new[:2], strict=True):
            yield from ((name, label) for label in sorted(mine ^ other))
        if old[2:] != new[2:]:
            yield name, None


def touched_lines(old: str, new: str, positions: list[str] | None) -> str:
    """Return the lines that are not in both texts; ``positions``: the images of the lines."""
    if positions is not None:
        lines = old.split("\n"), new.split("\n")
        size = max(map(len, lines))
        padded = [[*of_one, *[""] * (size - len(of_one))] for of_one in lines]
        at = [i for i in range(size) if padded[0][i] != padded[1][i]]
        return "\n".join(f"{text[i]} {positions[i] if i < len(positions) else ''}"
                         for i in at for text in padded)  # fmt: skip
    mine, other = Counter(re.split(r"[\r\n]+", old)), Counter(re.split(r"[\r\n]+", new))
    return "\n".join([*(mine - other), *(other - mine)])


def _aliases(image: str) -> set[str]:
    """Return the ways in which a label file may name an image."""
    base = image.rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    digits = re.search(r"\d+$", stem)
    number = {digits[0], digits[0].lstrip("0")} if digits else set()
    return {image, base, stem, *number} - {""}


def _is_named(word: str, text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text))


def wrong_with(layout: str, file: str, content: bytes, before: Reading, after: Reading) -> str:
    """Return what of a damaged file was read in silence as something else, "" if nothing was."""
    whole = _content(layout, file)
    if file.endswith((".xlsx", *_WITHOUT_CHECKSUMS)):
        is_same = before.of == after.of or file.endswith(_WITHOUT_CHECKSUMS)
        return "" if is_same else f"a damaged workbook is read as {after.of}"
    old, new = whole.decode(), _text(content)
    # What no file names stands for itself in another Unicode form, or with an escape.
    others = [_text(_content(layout, other)) for other in samples()[layout].files if other != file]
    forms = f"{new} {file} {unicodedata.normalize('NFC', _unescaped(new))} {' '.join(others)}"
    for name in after.class_names - before.class_names:
        words = (re.sub(r" \(.*", "", name), name.partition(" (")[2].rstrip(")"))
        if not all(_squeezed(word) in _squeezed(forms) for word in words):
            return f"the class {name!r} stands nowhere"
    if after.notes - before.notes:
        return ""
    positions = None
    if layout in _BY_PLACE and "Labels_" in file:
        positions = list(before.of)
    touched = f"{touched_lines(old, new, positions)}\n{file}"
    touched += _unescaped(touched)
    for name, label in differences(before, after):
        is_named = any(_is_named(alias, touched) for alias in _aliases(name))
        if not is_named and (label is None or not _is_named(label, touched)):
            what = "" if label is None else f" with {label!r}"
            return f"{name}{what}: {before.of.get(name)} became {after.of.get(name)}"
    return ""


def _text(content: bytes) -> str:
    is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    return content.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")


def _unescaped(text: str) -> str:
    """Return a text with the escapes of JSON, Python and XML undone, and doubled quotes single."""
    import html

    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\(.)", r"\1", text).replace('""', '"')
    return html.unescape(text)


def _squeezed(text: str) -> str:
    return re.sub(r"[\s\"']+", "", text)


def fuzz_labels(numbers: range, seed: int, folder: Path) -> Counter:
    """Read damaged label files; return how often they were read, refused, or said to differ."""
    from grigri_fast.errors import GrigriError

    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # of images in Hugging Face's tables
    said: Counter = Counter()
    places = {layout: sample.write(folder / layout) for layout, sample in samples().items()}
    asked = {layout: sample.layout for layout, sample in samples().items()}
    whole = {layout: Reading(place, asked[layout]) for layout, place in places.items()}
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        layout, name, content = label_input(number, seed)
        file = folder / layout / name
        file.write_bytes(content)
        try:
            after = Reading(places[layout], asked[layout])
        except GrigriError as e:
            assert "\n" not in str(e), str(e)
            said[f"{layout}: refused"] += 1
        else:
            wrong = wrong_with(layout, name, content, whole[layout], after)
            assert not wrong, f"{layout}/{name}: {wrong}"
            is_same = after.of == whole[layout].of
            is_said = bool(after.notes - whole[layout].notes)
            how = "as before" if is_same else "otherwise, and said" if is_said else "as it is now"
            said[f"{layout}: read {how}"] += 1
        file.write_bytes(_content(layout, name))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
        assert grown < _MORE_MEMORY_KIB, f"input {number} took {grown // 1024} MiB"
    return said
