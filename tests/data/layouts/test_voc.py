import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, voc
from grigri_fast.errors import GrigriError

# Two classes of the twenty; in the makers' files a 1 is set off by two spaces.
CLASS_FILES = {
    "aeroplane_train.txt": "2007_000027 -1\n2007_000032  1\n2007_000033  0\n",
    "aeroplane_val.txt": "2007_000042 -1\n",
    "aeroplane_trainval.txt": "2007_000027 -1\n2007_000032  1\n2007_000033  0\n2007_000042 -1\n",
    "person_train.txt": "2007_000027  1\n2007_000032  1\n2007_000033 -1\n",
    "person_val.txt": "2007_000042 -1\n",
    "person_trainval.txt": "2007_000027  1\n2007_000032  1\n2007_000033 -1\n2007_000042 -1\n",
    "train.txt": "2007_000027\n2007_000032\n2007_000033\n",
    "val.txt": "2007_000042\n",
    "trainval.txt": "2007_000027\n2007_000032\n2007_000033\n2007_000042\n",
}
STEMS = ["2007_000027", "2007_000032", "2007_000033", "2007_000042"]
OBJECTS = {  # (class, difficult)
    "2007_000027": [("person", 0)],
    "2007_000032": [("aeroplane", 0), ("aeroplane", 1), ("person", 0), ("person", 0)],
    "2007_000033": [("aeroplane", 1)],
    "2007_000042": [],
}


Change = Callable[[Path], object]


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def write_xml(folder: Path) -> None:
    for stem, things in OBJECTS.items():
        text = "".join(
            f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
            f"<part><name>head</name></part></object>"
            for name, difficult in things
        )
        text = f"<annotation><filename>{stem}.jpg</filename>{text}</annotation>"
        write(folder / "Annotations" / f"{stem}.xml", text)


def unpacked(folder: Path) -> Path:
    """Write VOC 2012 as it is unpacked."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name, text in CLASS_FILES.items():
        write(root / "ImageSets" / "Main" / name, text)
    for stem in (*STEMS, "2011_003276"):  # the last is there for the segmentation alone
        write(root / "JPEGImages" / f"{stem}.jpg")
    write(root / "SegmentationClass" / "2011_003276.png")
    write(root / "ImageSets" / "Segmentation" / "train.txt", "2011_003276\n")
    write_xml(root)
    return folder


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_as_it_is_unpacked(tmp_path: Path, below: str) -> None:
    data = unpacked(tmp_path) / below
    assert voc.is_here(data)
    labels = voc.read(data, LabelOptions())
    root = tmp_path / "VOCdevkit" / "VOC2012"
    where = f" in {root.relative_to(data)}/" if data != root else ""
    assert labels.names == [f"{stem}.jpg" for stem in STEMS]
    assert labels.paths == [root / "JPEGImages" / name for name in labels.names]
    assert labels.class_names == ["aeroplane", "person"]
    assert labels.labels == [["person"], ["aeroplane", "person"], [], []]
    assert labels.unknown == [[], [], ["aeroplane"], []]
    assert labels.parts == ["train", "train", "train", "val"]
    assert labels.notes == [
        f"4 images, labels from ImageSets/Main/<class>_<part>.txt{where}",
        'classes marked as "difficult" in an image are unknown there',
        "2 of Pascal VOC's 20 classes are there",
        "left out: 1 image in JPEGImages that no label file names",
    ]


def test_annotations_say_the_same(tmp_path: Path) -> None:
    root = unpacked(tmp_path) / "VOCdevkit" / "VOC2012"
    by_class = voc.read(root, LabelOptions())
    for file in (root / "ImageSets" / "Main").glob("*_*.txt"):
        file.unlink()
    by_image = voc.read(root, LabelOptions())
    assert by_image.names == by_class.names and by_image.labels == by_class.labels
    assert by_image.unknown == by_class.unknown and by_image.parts == by_class.parts
    shutil.rmtree(root / "ImageSets")
    assert voc.is_here(root)
    alone = voc.read(root, LabelOptions())
    assert alone.labels == by_class.labels and alone.parts is None


def test_one_class_and_one_part(tmp_path: Path) -> None:
    main = tmp_path / "ImageSets" / "Main"
    write(main / "traffic_light_train.txt", "a  1\nb -1\n")
    for name in ("JPEGImages/a.PNG", "SegmentationClass/a.png"):
        write(tmp_path / name)
    assert voc.is_here(tmp_path)
    labels = voc.read(tmp_path, LabelOptions())
    assert labels.class_names == ["traffic_light"]
    assert labels.names == ["a.PNG", "b.jpg"]  # b is not there: that is for the check to say
    assert labels.labels == [["traffic_light"], []] and labels.parts is None


def test_trainval_and_test(tmp_path: Path) -> None:
    main = tmp_path / "ImageSets" / "Main"
    write(main / "cat_trainval.txt", "a  1\nb -1\n")
    write(main / "cat_test.txt", "c  1\n")
    labels = voc.read(tmp_path, LabelOptions(images=tmp_path))
    assert labels.names == ["c.jpg", "a.jpg", "b.jpg"]
    assert labels.labels == [["cat"], ["cat"], []]
    assert labels.parts == ["test", "train", "train"]


def test_the_secret_labels_of_2012(tmp_path: Path) -> None:
    root = unpacked(tmp_path) / "VOCdevkit" / "VOC2012"
    write(root / "ImageSets" / "Main" / "test.txt", "2008_000001\n2008_000004\n")
    write(root / "JPEGImages" / "2008_000001.jpg")
    left_out = "left out: 2 images of test.txt, whose labels are not here"
    for pattern in ("nothing", "*_*.txt"):  # class files, and then the XML files
        for file in (root / "ImageSets" / "Main").glob(pattern):
            file.unlink()
        labels = voc.read(root, LabelOptions())
        assert labels.names == [f"{stem}.jpg" for stem in STEMS]
        assert left_out in labels.notes
        assert labels.parts == ["train", "train", "train", "val"]


def test_others_are_not_voc(tmp_path: Path) -> None:
    for name in ("JPEGImages/a.jpg", "cat/b.jpg", "annotations/cat.txt", "images/im1.jpg"):
        write(tmp_path / name, "1\n")
    assert not voc.is_here(tmp_path)
    write(tmp_path / "annotations" / "a.xml", "<annotations><image/></annotations>")
    write(tmp_path / "note.xml", "<annotation/>")
    assert not voc.is_here(tmp_path / "note.xml") and not voc.is_here(tmp_path / "none")


def main_file(name: str, old: str, new: str) -> Change:
    def change(root: Path) -> None:
        file = root / "ImageSets" / "Main" / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return change


def no(pattern: str, then: Callable[[Path], object] = lambda root: None) -> Change:
    def change(root: Path) -> None:
        for file in root.glob(pattern):
            file.unlink()
        then(root)

    return change


def xml(old: str, new: str) -> Change:
    """Change an XML file in a folder without class files."""

    def change(root: Path) -> None:
        file = root / "Annotations" / "2007_000033.xml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return no("ImageSets/Main/*_*.txt", change)


WRONG: list[tuple[str, Change, str]] = [
    ("file gone", no("ImageSets/Main/person_val.txt"), "person_val.txt: not there, but other"),
    (
        "cut",
        main_file("aeroplane_train.txt", "2007_000033  0\n", ""),
        r"train.txt names 3 images and aeroplane_train.txt 2; they differ in 2007_000033",
    ),
    ("2", main_file("person_train.txt", "27  1", "27  2"), "person_train.txt line 1: expected an"),
    ("no flag", main_file("person_train.txt", "27  1", "27"), "line 1: expected an image and 1"),
    ("twice", main_file("person_train.txt", "0032", "0027"), "line 2: 2007_000027 stands there tw"),
    (
        "in both parts",
        no("ImageSets/Main/*_*.txt", main_file("val.txt", "0042", "0027")),
        "2007_000027 is in both train and val",
    ),
    (
        "trainval differs",
        main_file("person_trainval.txt", "27  1", "27 -1"),
        "person_trainval.txt: 2007_000027 is there with -1, but not so in person_train.txt",
    ),
    (
        "two suffixes",
        lambda r: write(r / "JPEGImages/2007_000027.png"),
        "differ only in the suffix",
    ),
    ("two years", lambda r: shutil.copytree(r, r.parent / "VOC2007"), "found VOC2007 and VOC2012"),
    ("no labels", no("*/*.xml", no("ImageSets/Main/*_*.txt")), "no class files and no Ann"),
    ("difficult 3", xml("<difficult>1", "<difficult>3"), "<difficult> must be 0 or 1, not '3'"),
    ("no name", xml("<name>aeroplane</name>", ""), "expected the name of a class, not None"),
    ("cut XML", xml("</annotation>", ""), "2007_000033.xml: not valid XML"),
    ("other XML", xml("annotation>", "annotations>"), "<annotations> is no annotation of Pascal"),
    ("entity", xml("<annotation>", "<!DOCTYPE a><annotation>"), "XML with a DOCTYPE is not read"),
    (
        "XML gone",
        no("ImageSets/Main/*_*.txt", no("Annotations/2007_000033.xml")),
        "names 2007_000033, which has no file in",
    ),
]


@pytest.mark.parametrize(("change", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_folders_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    data = unpacked(tmp_path) / "VOCdevkit"
    change(data / "VOC2012")
    assert voc.is_here(data)
    with pytest.raises(GrigriError, match=message) as error:
        voc.read(data, LabelOptions())
    assert str(error.value).startswith(str(data))


def test_other_folders_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="no Pascal VOC; expected JPEGImages/ with"):
        voc.read(tmp_path, LabelOptions())
    with pytest.raises(GrigriError, match="--label-columns does not go with Pascal VOC"):
        voc.read(tmp_path, LabelOptions(label_columns=("a",)))
