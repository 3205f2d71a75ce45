"""CSV files as spreadsheets write them, and damaged ones."""

from pathlib import Path

import pytest

from grigri_fast.data.layouts import LabelOptions, read_labels
from grigri_fast.data.layouts.table import read_text_table
from grigri_fast.errors import GrigriError

TEXT = "image,labels\na.jpg,café|sky\nb.jpg,dog\n"
TABBED = TEXT.replace(",", "\t")


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TABBED.encode("utf-16"),  # what Excel calls Unicode Text
        b"\xfe\xff" + TABBED.encode("utf-16-be"),
        TEXT.replace(",", ";").encode(),
        ("sep=;\r\n" + TEXT.replace(",", ";")).encode(),
        ("sep=|\n" + TEXT.replace("|", "/").replace(",", "|").replace("/", ";")).encode(),
        b"\n\n" + TEXT.encode() + b"\n\n",
        TEXT.replace("\n", ",,\n").encode() + b",,,\n,,,\n",  # empty columns and rows
        (TEXT.replace("\n", ",,\n", 1) + "c.jpg,\n").encode().replace(b"c.jpg,\n", b""),
        b'"image","labels"\n"a.jpg","caf\xc3\xa9|sky"\n"b.jpg","dog"\n',
    ],
    ids=range(13),
)
def test_one_table_in_many_forms(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    labels = read_labels(tmp_path / "l.csv", LabelOptions())
    assert labels.names == ["a.jpg", "b.jpg"]
    assert labels.labels == [["café", "sky"], ["dog"]]


def test_numbers_with_a_decimal_comma(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("image;cat;dog;width\na.jpg;1,0;0,0;1,5\nb.jpg;0,0;1,0;2,5\n")
    labels = read_labels(tmp_path / "l.csv", LabelOptions())
    assert labels.labels == [["cat"], ["dog"]] and labels.class_names == ["cat", "dog"]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text('sep=,\n\nimage,note,labels\na.jpg,"two\nlines",cat\n\nb,,x\n')
    table = read_text_table(tmp_path / "l.csv")
    assert table.header == ["image", "note", "labels"] and table.lines == [5, 7]
    assert table.rows == [["a.jpg", "two\nlines", "cat"], ["b", "", "x"]]


def test_the_index_that_pandas_writes_is_no_class(tmp_path: Path) -> None:
    for name in ("", "Unnamed: 0"):
        (tmp_path / "l.csv").write_text(f"{name},image,cat,dog\n0,a.jpg,1,0\n1,b.jpg,0,1\n")
        assert read_labels(tmp_path / "l.csv", LabelOptions()).class_names == ["cat", "dog"]
        (tmp_path / "l.csv").write_text(
            f"{name},image,cat\n0,a.jpg,1\n1,b.jpg,0\n2,c.jpg,1\n3,d.jpg,0\n"
        )
        assert read_labels(tmp_path / "l.csv", LabelOptions()).class_names == ["cat"]


@pytest.mark.parametrize(
    "content, says",
    [
        ("image,labels\na.jpg,café\n".encode("latin-1"), "line 2: not UTF-8 text (byte 22); save"),
        (TABBED.encode("utf-16")[:-1], "line 3: not UTF-8 text"),
        (TABBED.replace("é", "e").encode("utf-16-le"), "it contains NUL"),
        (b'image,labels\na.jpg,"cat\nb.jpg,dog\n', "not a valid CSV"),
        (b'image,labels\n"a.jpg"x,cat\n', "not a valid CSV"),
        (b"image,labels\na.jpg,cat,dog\n", "line 2: 3 cells where the header has 2"),
        (b"image,labels,\na.jpg,cat,dog\n", "line 2: 3 cells where the header has 2"),
        (b"image,cat,dog\na.jpg,1\n", "line 2: 2 cells where the header has 3"),
        (b'image,labels\na.jpg,"cat\ndog"\n', "line 3: 'cat\\ndog' has a line break"),
        (b'image,labels\n"a\n.jpg",cat\n', "line 3: 'a\\n.jpg' is no file name"),
        (b"sep=;\nimage,labels\na.jpg,cat\n", "expected a header"),
        (b"", "expected a header"),
        (b"image;cat\na.jpg;1,0\nb.jpg;0,5\n", "line 3, column 'cat': '0,5' is neither 0 nor 1"),
    ],
    ids=range(13),
)
def test_what_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(GrigriError) as error:
        read_labels(tmp_path / "l.csv", LabelOptions())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(f"image,labels\n{'a' * 300}.jpg,cat\nb.jpg,dog\n")
    assert len(read_labels(tmp_path / "l.csv", LabelOptions()).names) == 2
    (tmp_path / "l.csv").write_text(f"image,labels\n{'a' * 300}/a,cat\n{'a' * 300}/b,dog\n")
    assert len(read_labels(tmp_path / "l.csv", LabelOptions()).names) == 2
    (tmp_path / "l.csv").write_text(f"image,labels\n{'a' * 2000}.jpg,cat\nb.jpg,dog\n")
    with pytest.raises(GrigriError, match=r"line 2: 'aaa.* is no file name"):
        read_labels(tmp_path / "l.csv", LabelOptions())
