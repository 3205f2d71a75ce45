import datetime
import io
import sys
import zipfile
from pathlib import Path

import pytest
from label_samples import parquet, workbook

from grigri_fast.data import dataset
from grigri_fast.data.layouts import LabelOptions, read_labels, spreadsheet
from grigri_fast.errors import GrigriError


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_a_workbook(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 5, 17)
    content = workbook(
        ("image", "cat", "dog", "date", None),
        ("a.jpg", 1.0, 0, day, None),
        (None, None, None, None, None),
        ("b.jpg", 0, 1.0, day.replace(hour=3), None),
        more=("Sheet2",),
    )
    file = write(tmp_path, "l.xlsx", content)
    table = spreadsheet.read_workbook(file)
    assert table.header == ["image", "cat", "dog", "date"]
    assert table.rows == [
        ["a.jpg", "1", "0", "2024-05-17"],
        ["b.jpg", "0", "1", "2024-05-17T03:00:00"],
    ]
    assert table.lines == [2, 4]
    labels = read_labels(file, LabelOptions())
    assert labels.labels == [["cat"], ["dog"]]
    write(tmp_path, "~$l.xlsx", b"open in Excel")
    assert read_labels(tmp_path, LabelOptions()).labels == labels.labels  # the folder


def test_true_and_false_in_a_workbook(tmp_path: Path) -> None:
    rows = (("image", "cat", "dog"), ("a.jpg", True, False), ("b.jpg", False, True))
    labels = read_labels(write(tmp_path, "l.XLSX", workbook(*rows)), LabelOptions())
    assert labels.labels == [["cat"], ["dog"]]


def test_a_table_of_chexpert_as_a_workbook(tmp_path: Path) -> None:
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "Edema", "Fracture")
    row = ("C/train/patient1/study1/a.jpg", "Male", 68, "Frontal", "AP", -1.0, 1.0)
    labels = read_labels(write(tmp_path, "l.xlsx", workbook(header, row)), LabelOptions())
    assert labels.labels == [["Fracture"]] and labels.unknown == [["Edema"]]


@pytest.mark.parametrize(
    "content, says",
    [
        (workbook(("image", "labels"), ("a.jpg", "cat"), more=("full B",)), "the sheets 'Sheet', "),
        (workbook(), "expected a header"),
        (workbook(("image", "labels"), ("a.jpg", "#REF!")), "line 2: a formula gives #REF!"),
        (workbook(("image", "labels"), ("a.jpg", "cat", "dog")), "3 cells where the header has 2"),
        (workbook(("image", "image"), ("a.jpg", "cat")), "the column 'image' stands there twice"),
        (b"image,labels\na.jpg,cat\n", "not a readable .xlsx workbook"),
        (workbook(("image", "labels"), ("a.jpg", "cat"))[:-300], "not a readable .xlsx workbook"),
        (b"", "not a readable .xlsx workbook"),
    ],
    ids=range(8),
)
def test_wrong_workbooks(tmp_path: Path, content: bytes, says: str) -> None:
    refused(write(tmp_path, "l.xlsx", content), says)


def refused(data: Path, says: str) -> None:
    with pytest.raises(GrigriError) as error:
        dataset.load(data)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_workbook_that_unpacks_to_gigabytes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(spreadsheet, "_MAX_BYTES", 100_000)
    file = io.BytesIO(workbook(("image", "labels"), ("a.jpg", "cat")))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/more.xml", b" " * 200_000)
    refused(write(tmp_path, "l.xlsx", file.getvalue()), "too much for labels")
    monkeypatch.setattr(spreadsheet, "_MAX_CELLS", 3)
    rows = workbook(("image", "labels"), ("a.jpg", "cat"))
    refused(write(tmp_path, "m.xlsx", rows), "more than 3 cells; save it as CSV")


# --------------------------------------------------------------------------------- Parquet


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "image": ["a.jpg", "b.jpg", "c.jpg"],
        "cat": [1.0, 0.0, 0.0],
        "dog": [True, False, True],
        "split": ["train", "test", None],
        "__index_level_0__": [5, 6, 7],
    }
    labels = read_labels(write(tmp_path, "l.parquet", parquet(**columns)), LabelOptions())
    assert labels.labels == [["cat", "dog"], [], ["dog"]]
    assert labels.parts == ["train", "test", ""]


def test_parquet_with_lists(tmp_path: Path) -> None:
    columns = {"image": ["a.jpg", "b.jpg", "c.jpg"], "labels": [["hot dog", "a, b"], [], None]}
    labels = read_labels(write(tmp_path, "l.parquet", parquet(**columns)), LabelOptions())
    assert labels.labels == [["hot dog", "a, b"], [], []]


@pytest.mark.parametrize(
    "content, says",
    [
        (parquet(image=["a.jpg"], labels=[["cat"]])[:-9], "not a readable .parquet file"),
        (b"PAR1", "not a readable .parquet file"),
        (parquet(image=[{"bytes": b"x", "path": "a.jpg"}], labels=["a"]), "'image' holds bytes"),
        (parquet(image=[b"a.jpg"], labels=["cat"]), "the column 'image' holds bytes"),
        (parquet(image=[], labels=[]), "expected a header"),
        (parquet(image=["a.jpg"], labels=[[1.5]]), "expected a list of names"),
        (parquet(image=["a.jpg"], labels=[{"a": 1}]), "is neither a name nor a list of names"),
    ],
    ids=range(7),
)
def test_wrong_parquet(tmp_path: Path, content: bytes, says: str) -> None:
    refused(write(tmp_path, "l.parquet", content), says)


@pytest.mark.parametrize(
    "name, library", [("l.xlsx", "openpyxl"), ("l.parquet", "pyarrow")], ids=["xlsx", "parquet"]
)
def test_a_missing_library_is_named(tmp_path: Path, name: str, library: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    says = f"files need {library}: pip install {library}; or save the table as CSV"
    refused(write(tmp_path, name, b"x"), says)


@pytest.mark.parametrize(
    "name, says",
    [
        ("l.xls", "save it as .xlsx or CSV"),
        ("l.ods", "save it as .xlsx or CSV"),
        ("l.pkl", "a pickle can run programs and is never read"),
        ("l.txt", "write a table with a header such as image,labels"),
        ("l.feather", "save it as .parquet or CSV"),
    ],
)
def test_tables_that_are_not_read(tmp_path: Path, name: str, says: str) -> None:
    refused(write(tmp_path, name, b"a.jpg cat\n"), says)
