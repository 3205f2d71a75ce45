"""The rules of benchmarks/fuzz_labels.py: which readings of a damaged label file are findings."""

import contextlib
import itertools
import sys
from pathlib import Path

import pytest
from label_samples import LABEL_COLUMN

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import fuzz_labels
from fuzz_labels import Reading

from grigri_fast.errors import GrigriError

WHOLE = LABEL_COLUMN.files["l.csv"]
assert isinstance(WHOLE, str)


@pytest.fixture
def before(tmp_path: Path) -> Reading:
    return Reading(LABEL_COLUMN.write(tmp_path), None)


def changed(reading: Reading, image: str, labels: set[str], *notes: str) -> Reading:
    """Return another reading, in which an image has other labels and more is said."""
    other = Reading.__new__(Reading)
    key = next(path for path in reading.of if path.endswith(image))
    other.of = {**reading.of, key: (frozenset(labels), *reading.of[key][1:])}
    other.class_names = reading.class_names | labels
    other.notes = reading.notes | {*notes}
    return other


def finding(before: Reading, after: Reading, old: str = "", new: str = "") -> str:
    content = WHOLE.replace(old, new, 1).encode()
    return fuzz_labels.wrong_with("label-column", "l.csv", content, before, after)


def test_an_image_whose_row_is_intact(before: Reading) -> None:
    after = changed(before, "a.jpg", {"cat"})
    assert "a.jpg with 'hot dog'" in finding(before, after, "d.jpg,sky", "d.jpg,ski")
    assert not finding(before, after, "a.jpg,cat|hot dog", "a.jpg,cat")
    assert not finding(before, changed(before, "a.jpg", {"cat"}, "left out: hot dog"))


def test_an_image_that_is_gone(before: Reading) -> None:
    after = changed(before, "a.jpg", {"cat", "hot dog"})
    assert not finding(before, after)
    gone = next(path for path in after.of if path.endswith("d.jpg"))
    del after.of[gone]
    assert "d.jpg" in finding(before, after, "b.jpg,", "b.jpg,sky")
    assert not finding(before, after, "d.jpg,sky\n", "")


def test_a_class_that_stands_nowhere(before: Reading) -> None:
    after = changed(before, "a.jpg", {"cat", "bird"}, "more is said")
    assert "'bird' stands nowhere" in finding(before, after, "a.jpg,cat|hot dog", "a.jpg,cat|b")
    assert not finding(before, after, "a.jpg,cat|hot dog", "a.jpg,cat|bird")


def test_lines_that_belong_to_an_image_by_their_place() -> None:
    touched = fuzz_labels.touched_lines("1\n0\n1\n", "1\n1\n1\n", ["a.jpg", "b.jpg", "c.jpg"])
    assert "b.jpg" in touched and "a.jpg" not in touched
    assert fuzz_labels.touched_lines("1\n0\n", "0\n1\n", None) == ""


def test_inputs_depend_on_seed_and_number_alone() -> None:
    assert fuzz_labels.label_input(7, 0) == fuzz_labels.label_input(7, 0)
    first = [fuzz_labels.label_input(n, 0) for n in range(60)]
    assert first != [fuzz_labels.label_input(n, 1) for n in range(60)]
    assert {layout for layout, _, _ in first} == set(fuzz_labels.samples())


@pytest.mark.parametrize("layout", sorted(fuzz_labels.samples()))
def test_names_of_columns_that_are_exchanged(layout: str, tmp_path: Path) -> None:
    """A header with two names exchanged: refused, said, or no image is read as anything else."""
    sample = fuzz_labels.samples()[layout]
    place = sample.write(tmp_path)
    before = Reading(place, sample.layout)
    for name in (name for name in sample.files if name.endswith((".csv", ".tsv"))):
        whole = (tmp_path / name).read_bytes()
        header, end, rows = whole.decode("utf-8-sig").partition("\n")
        delimiter = max(",\t;", key=header.count)
        cells = header.split(delimiter)
        for i, j in itertools.combinations(range(len(cells)), 2):
            exchanged = [*cells]
            exchanged[i], exchanged[j] = cells[j], cells[i]
            damaged = (delimiter.join(exchanged) + end + rows).encode()
            (tmp_path / name).write_bytes(damaged)
            with contextlib.suppress(GrigriError):
                after = Reading(place, sample.layout)
                assert not fuzz_labels.wrong_with(layout, name, damaged, before, after)
        (tmp_path / name).write_bytes(whole)
