from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, cvat
from grigri_fast.errors import GrigriError

# As CVAT 2 exports a project, shortened.
XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <project>
      <id>7</id>
      <name>pets</name>
      <labels>
        <label><name>cat</name><color>#ff00cc</color><type>any</type><attributes></attributes></label>
        <label><name>dog</name><type>any</type></label>
        <label><name>pose</name><type>skeleton</type></label>
        <label><name>nose</name><type>points</type><parent>pose</parent></label>
      </labels>
      <subsets>Train Validation</subsets>
    </project>
    <dumped>2026-01-01 10:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="a.jpg" subset="Train" task_id="1" width="640" height="480">
    <tag label="cat" source="manual"><attribute name="age">3</attribute></tag>
    <box label="dog" source="manual" occluded="0" xtl="1.0" ytl="2.0" xbr="3.0" ybr="4.0"></box>
    <box label="dog" xtl="1.0" ytl="2.0" xbr="3.0" ybr="4.0"></box>
  </image>
  <image id="1" name="deep/b.jpg" subset="Train" task_id="1" width="640" height="480"></image>
  <image id="2" name="c.jpg" subset="Validation" task_id="2" width="640" height="480">
    <skeleton label="pose"><points label="nose" points="1,2"></points></skeleton>
    <polygon label="cat" points="1,2;3,4;5,6"></polygon>
  </image>
</annotations>
"""
NAMES = ["a.jpg", "deep/b.jpg", "c.jpg"]


def unpacked(folder: Path) -> Path:
    (folder / "annotations.xml").write_text(XML)
    for name in ("Train/a.jpg", "Train/deep/b.jpg", "Validation/c.jpg"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).touch()
    return folder


@pytest.mark.parametrize("data", [".", "annotations.xml"])
def test_a_project(tmp_path: Path, data: str) -> None:
    unpacked(tmp_path)
    assert cvat.is_here(tmp_path / data)
    labels = cvat.read(tmp_path / data, LabelOptions())
    assert labels.names == NAMES
    assert labels.labels == [["cat", "dog"], [], ["pose", "cat"]]
    assert labels.class_names == ["cat", "dog", "pose"]
    assert labels.parts == ["train", "train", "val"]
    assert [str(path.relative_to(tmp_path / "images")) for path in labels.paths] == [
        "Train/a.jpg",
        "Train/deep/b.jpg",
        "Validation/c.jpg",
    ]
    assert labels.notes == [
        "3 images, with the labels of 5 annotations",
        "1 image without annotation: no label",
        "attributes of labels are not read",
    ]


def test_a_task_without_meta(tmp_path: Path) -> None:
    text = '<annotations><image id="0" name="a.png"><tag label="z"/><tag label="b"/></image>'
    text += '<image id="1" name="b.png" subset="more"><box label="b"/><note/></image></annotations>'
    file = tmp_path / "task.xml"
    file.write_text(text)
    (tmp_path / "a.png").touch()
    assert cvat.is_here(tmp_path)
    labels = cvat.read(tmp_path, LabelOptions())
    assert labels.class_names == ["b", "z"] and labels.labels == [["z", "b"], ["b"]]
    assert labels.paths[0] == tmp_path / "a.png" and labels.parts is None
    assert labels.notes[1:] == ["left out: <note>", "in no part: the subset 'more'"]
    assert cvat.read(file, LabelOptions(images=tmp_path / "x")).paths[0] == tmp_path / "x/a.png"


@pytest.mark.parametrize("text", ["<annotation><object/></annotation>", "<x/>", "", "annotations"])
def test_others_are_not_cvat(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    (tmp_path / "a.txt").write_text(XML)
    assert not any(cvat.is_here(tmp_path / n) for n in ("annotations.xml", "a.txt", ".", "none"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotations>", "", "not valid XML"),
        ("<annotations>", "<!DOCTYPE x><annotations>", "XML with a DOCTYPE"),
        ("annotations>", "dataset>", "<dataset> is not of CVAT; export as"),
        ("</annotations>", '<track id="0"/></annotations>', "labels of a video"),
        ('name="a.jpg"', "", "image 0: expected the name of an image, not None"),
        ('name="c.jpg"', 'name="./a.jpg"', "image 2: a.jpg was in .*image 0 already"),
        ('<tag label="cat"', "<tag", "image 0: <tag>: expected the name of a class"),
        ('<tag label="cat"', '<tag label="cow"', "'cow' is not among the labels in <meta>"),
        ("<name>dog</name>", "<name></name>", "<label>: expected the name of a class"),
        ("image", "picture", "no images; export as"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = unpacked(tmp_path) / "annotations.xml"
    assert old in XML
    file.write_text(XML.replace(old, new))
    with pytest.raises(GrigriError, match=message) as error:
        cvat.read(file, LabelOptions())
    assert str(error.value).startswith(str(file))


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match=r"no annotations\.xml of CVAT"):
        cvat.read(tmp_path, LabelOptions())
    unpacked(tmp_path)
    (tmp_path / "old.xml").write_text(XML)
    with pytest.raises(GrigriError, match=r"found annotations\.xml, old\.xml; name one of them"):
        cvat.read(tmp_path, LabelOptions())
    with pytest.raises(GrigriError, match="--no-label does not go with CVAT"):
        cvat.read(tmp_path, LabelOptions(no_label=("x",)))
