import json
from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, reading
from grigri_fast.errors import GrigriError, UsageError


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("train2017", "train"),
        ("Validation", "val"),
        ("valid", "val"),
        ("test-dev", ""),
        ("minival2014", ""),
        ("2017", ""),
    ],
)
def test_part_of(word: str, part: str) -> None:
    assert reading.part_of(word) == part


def test_counted() -> None:
    assert reading.counted(1, "box") == "1 box"
    assert reading.counted(2000, "box") == "2,000 boxes"
    assert reading.counted(0, "image") == "0 images"


def test_listed() -> None:
    assert reading.listed(["a", "b" * 50]) == f"a, {'b' * 37}..."
    assert reading.listed(map(str, range(20))) == "0, 1, 2, 3, 4, 5, 6, 7, ..."


def test_an_option_that_a_layout_has_no_use_for_is_refused() -> None:
    LabelOptions(layout="coco", classes=("cat",)).require_only("COCO")
    LabelOptions(images=Path("x")).require_only("COCO", "images")
    with pytest.raises(UsageError, match=r"^--no-label does not go with COCO; leave it out$"):
        LabelOptions(images=Path("x"), no_label=()).require_only("COCO", "images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "XML with a DOCTYPE is not read"),
        ("<a><b></a>", "not valid XML"),
        ("", "not valid XML"),
        ("<a>\0</a>", "contains NUL"),
    ],
)
def test_xml_that_is_not_read(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(content)
    with pytest.raises(GrigriError, match=message):
        reading.read_xml(file)


def test_deep_files_are_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("[" * 100_000)
    with pytest.raises(GrigriError, match="nested too deeply"):
        reading.read_json(file)
    file.write_text("<a>" * 100_000 + "</a>" * 100_000)
    assert reading.read_xml(file).tag == "a"
    file.write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(GrigriError, match="not valid JSON"):
        reading.read_json(file)


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text('[{"a": {"b": 1}, "c": 2}, {"a": 1, "c": 2, "a": 3}]')
    with pytest.raises(GrigriError, match="the key 'a' stands twice in one object"):
        reading.read_json(file)


def test_names_of_images() -> None:
    assert reading.image_name(" a\\b\\c.jpg ", "x") == "a/b/c.jpg"
    assert reading.image_name("./a//b.jpg", "x") == "a/b.jpg"
    for value in ("", " ", None, 3, "a" * 2000, "a\0", "a\nb", "\ud800", ["a"]):
        with pytest.raises(GrigriError, match=r"^x: "):
            reading.image_name(value, "x")


def test_the_folder_that_has_most_images(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert reading.fitting_folder(["a.jpg"], [one, two]) == one
    two.mkdir()
    (two / "a.jpg").touch()
    assert reading.fitting_folder(["x" * 5000, "a.jpg"], [one, two]) == two


def test_two_images_of_one_stem_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", ".a.png", "b.txt"):
        (tmp_path / name).touch()
    assert reading.image_of_stem(tmp_path) == {"a": "a.jpg", "b": "b.PNG"}
    (tmp_path / "b.jpg").touch()
    with pytest.raises(GrigriError, match="differ only in the suffix"):
        reading.image_of_stem(tmp_path)
    assert reading.image_of_stem(tmp_path / "none") == {}


def test_rows() -> None:
    rows = reading.Rows()
    rows.add("a.jpg", "line 1", ["x", "x", "y"], part="train")
    labels = rows.result([Path("a.jpg")], ["x", "y"], "there", [])
    assert labels.labels == [["x", "y"]]
    assert labels.parts is None and labels.unknown is None and labels.notes == []
    rows.add("b.jpg", "line 2", [], ["x"], part="val")
    labels = rows.result([], ["x", "y"], "there", ["read"])
    assert labels.parts == ["train", "val"] and labels.unknown == [[], ["x"]]
    assert labels.notes == ["read"]
    with pytest.raises(GrigriError, match=r"line 3: a\.jpg was in line 1 already"):
        rows.add("a.jpg", "line 3", [])
