from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, voc
from grigri_fast.errors import GrigriError

# As labelImg writes it.
XML = """<annotation>
\t<folder>photos</folder>
\t<filename>other.jpg</filename>
\t<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin></bndbox></object>
\t<object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin></bndbox></object>
</annotation>
"""


def write(folder: Path, xml: str = XML) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.xml").write_text(xml)
    (folder / "b.xml").write_text("<annotation></annotation>")
    for name in ("a.jpg", "b.png", "new.jpg"):
        (folder / name).touch()
    return folder


def test_labelimg(tmp_path: Path) -> None:
    write(tmp_path)
    assert voc.is_here(tmp_path)
    labels = voc.read(tmp_path, LabelOptions())
    assert labels.names == ["a.jpg", "b.png"]
    assert labels.paths == [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert labels.labels == [["dog"], []] and labels.unknown == [["cat"], []]
    assert labels.class_names == ["cat", "dog"] and labels.parts is None
    assert labels.notes == [
        "2 images, labels from the .xml beside each",
        'classes marked as "difficult" in an image are unknown there',
        "1 file with another name in <filename>: the name of the .xml itself counts",
        "left out: 1 image without .xml",
    ]


def test_roboflow(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write(tmp_path / part)
    assert voc.is_here(tmp_path)
    labels = voc.read(tmp_path, LabelOptions())
    assert labels.names == ["train/a.jpg", "train/b.png", "valid/a.jpg", "valid/b.png"]
    assert labels.labels == [["dog"], []] * 2
    assert labels.parts == ["train", "train", "val", "val"]
    for file in (tmp_path / "valid").glob("*.xml"):
        file.write_text("damaged")
    labels = voc.read(tmp_path, LabelOptions())
    assert labels.names == ["train/a.jpg", "train/b.png"]
    assert "left out: valid/, without XML files of Pascal VOC" in labels.notes


def test_an_image_that_only_filename_names(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "a.xml").rename(tmp_path / "0001.xml")
    (tmp_path / "a.jpg").rename(tmp_path / "other.jpg")
    labels = voc.read(tmp_path, LabelOptions())
    assert labels.names == ["other.jpg", "b.png"] and labels.labels == [["dog"], []]
    assert not any("<filename>" in note for note in labels.notes)
    (tmp_path / "0002.xml").write_text(XML)
    with pytest.raises(GrigriError, match=r"0002\.xml: other\.jpg was in .*0001\.xml already"):
        voc.read(tmp_path, LabelOptions())


def test_xml_beside_images_in_class_folders_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "cat")
    assert not voc.is_here(tmp_path)
    (tmp_path / "cat" / "c.xml").write_text("<svg/>")
    assert not voc.is_here(tmp_path / "cat" / "c.xml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "a.xml: not valid XML"),
        ("<difficult>1", "<difficult>x", "a.xml: <difficult> must be 0 or 1, not 'x'"),
        ("<name>dog</name>", "", "a.xml: <object><name>: expected the name of a class"),
        ("annotation>", "svg>", "a.xml: <svg> is no annotation of Pascal VOC"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    write(tmp_path, XML.replace(old, new))
    with pytest.raises(GrigriError, match=message):
        voc.read(tmp_path, LabelOptions())


def test_what_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(GrigriError, match="--images does not go with Pascal VOC's XML files"):
        voc.read(tmp_path, LabelOptions(images=tmp_path))
    (tmp_path / "a.png").touch()
    with pytest.raises(GrigriError, match="differ only in the suffix"):
        voc.read(tmp_path, LabelOptions())
