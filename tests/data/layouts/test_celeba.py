from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, celeba
from grigri_fast.errors import GrigriError

# The makers' files, with three attributes of the 40 and spaces as they are there.
ATTRIBUTES = """3
5_o_Clock_Shadow Arched_Eyebrows Male
000001.jpg -1  1 -1
000002.jpg  1 -1  1
000003.jpg -1 -1 -1
"""
PARTITION = "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n"
NAMES = ["000001.jpg", "000002.jpg", "000003.jpg"]
LABELS = [["Arched_Eyebrows"], ["5_o_Clock_Shadow", "Male"], []]
KAGGLE = """image_id,5_o_Clock_Shadow,Arched_Eyebrows,Male
000001.jpg,-1,1,-1
000002.jpg,1,-1,1
000003.jpg,-1,-1,-1
"""
KAGGLE_PARTITION = "image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n"


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def unpacked(folder: Path) -> Path:
    """Write CelebA as its makers have it."""
    write(folder / "Anno" / "list_attr_celeba.txt", ATTRIBUTES)
    write(folder / "Anno" / "list_bbox_celeba.txt", "3\nx_1 y_1\n000001.jpg 95 71\n")
    write(folder / "Eval" / "list_eval_partition.txt", PARTITION)
    for name in NAMES:
        write(folder / "Img" / "img_align_celeba" / name)
    return folder


@pytest.mark.parametrize("data", [".", "Anno", "Anno/list_attr_celeba.txt"])
def test_as_it_is_unpacked(tmp_path: Path, data: str) -> None:
    unpacked(tmp_path)
    assert celeba.is_here(tmp_path / data)
    labels = celeba.read(tmp_path / data, LabelOptions())
    folder = (tmp_path / "Img" / "img_align_celeba").resolve()
    assert labels.names == NAMES and labels.labels == LABELS
    assert [path.resolve() for path in labels.paths] == [folder / name for name in NAMES]
    assert labels.class_names == ["5_o_Clock_Shadow", "Arched_Eyebrows", "Male"]
    assert labels.parts == ["train", "val", "test"]
    assert labels.notes == [
        "3 images, 3 attributes, from list_attr_celeba.txt (1 yes, -1 no)",
        "the parts are from list_eval_partition.txt",
    ]


@pytest.mark.parametrize("images", ["img_align_celeba", "img_align_celeba/img_align_celeba", "."])
def test_kaggles(tmp_path: Path, images: str) -> None:
    write(tmp_path / "list_attr_celeba.csv", KAGGLE)
    write(tmp_path / "list_eval_partition.csv", KAGGLE_PARTITION)
    write(tmp_path / "list_bbox_celeba.csv", "image_id,x_1\n000001.jpg,95\n")
    write(tmp_path / images / NAMES[2])
    assert celeba.is_here(tmp_path)
    labels = celeba.read(tmp_path, LabelOptions())
    assert labels.names == NAMES and labels.labels == LABELS
    assert labels.parts == ["train", "val", "test"]
    assert labels.paths[2].resolve() == (tmp_path / images / NAMES[2]).resolve()
    elsewhere = celeba.read(tmp_path, LabelOptions(images=tmp_path / "x"))
    assert elsewhere.paths[0] == tmp_path / "x" / NAMES[0]


def test_a_part_of_the_images(tmp_path: Path) -> None:
    write(tmp_path / "list_attr_celeba.csv", KAGGLE.replace("000003.jpg,-1,-1,-1\n", ""))
    write(tmp_path / "list_eval_partition.csv", KAGGLE_PARTITION)
    labels = celeba.read(tmp_path, LabelOptions())
    assert labels.names == NAMES[:2]
    assert "left out: 1 image that only list_eval_partition names" in labels.notes


def test_others_are_not_celeba(tmp_path: Path) -> None:
    file = write(tmp_path / "list_bbox_celeba.txt")
    write(tmp_path / "Anno" / "attr.txt", ATTRIBUTES)
    assert not any(celeba.is_here(p) for p in (file, tmp_path, tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the number of images in line 1"),
        (ATTRIBUTES.split("\n", 1)[1], "expected the number of images in line 1"),
        (ATTRIBUTES.rsplit("0", 5)[0], "line 1 says 3 images, and there are 2"),
        (ATTRIBUTES.replace("000003.jpg -1 -1 -1", "000003.jpg -1 -1"), "line 5: 2 attributes"),
        (ATTRIBUTES.replace("000001.jpg -1  1", "000001.jpg -1  0"), "line 3: an attribute must"),
        (ATTRIBUTES.replace("000002", "000001"), "000001.jpg was in .* line 3 already"),
        (ATTRIBUTES.replace("Male", "Arched_Eyebrows"), "'Arched_Eyebrows' stands there twice"),
        (ATTRIBUTES.replace("000002", "000004"), "000004.jpg is not in .*list_eval_partition"),
    ],
)
def test_wrong_attributes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = unpacked(tmp_path) / "Anno" / "list_attr_celeba.txt"
    file.write_text(text)
    with pytest.raises(GrigriError, match=message) as error:
        celeba.read(tmp_path, LabelOptions())
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no images"),
        (PARTITION.replace("02.jpg 1", "02.jpg 3"), "line 2: expected an image and 0, 1 or 2"),
        (PARTITION.replace("000002", "000001"), "line 2: 000001.jpg stands there twice"),
        (PARTITION.replace(" ", ","), "line 1: expected an image and 0, 1 or 2"),
    ],
)
def test_wrong_parts_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = unpacked(tmp_path) / "Eval" / "list_eval_partition.txt"
    file.write_text(text)
    with pytest.raises(GrigriError, match=message) as error:
        celeba.read(tmp_path, LabelOptions())
    assert str(error.value).startswith(str(file))


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match=r"no list_attr_celeba\.txt or \.csv"):
        celeba.read(tmp_path, LabelOptions())
    file = write(tmp_path / "list_attr_celeba.csv", "image_id\n000001.jpg\n")
    with pytest.raises(GrigriError, match="expected the line image_id,<attribute>"):
        celeba.read(file, LabelOptions())
    file.write_text("image_id,Male\n")
    with pytest.raises(GrigriError, match="no images"):
        celeba.read(file, LabelOptions())
    write(tmp_path / "Anno" / "list_attr_celeba.txt", ATTRIBUTES)
    with pytest.raises(GrigriError, match=r"list_attr_celeba\.txt; keep one of them"):
        celeba.read(tmp_path, LabelOptions())
    with pytest.raises(GrigriError, match="--image-column does not go with CelebA"):
        celeba.read(file, LabelOptions(image_column="image_id"))
