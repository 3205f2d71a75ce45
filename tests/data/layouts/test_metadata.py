import json
from dataclasses import replace
from pathlib import Path

import pytest
from label_samples import METADATA, METADATA_JSONL, Sample, csv_of, parquet

from grigri_fast.data.layouts import LabelOptions, Labels, read_labels
from grigri_fast.errors import GrigriError


def test_a_file_for_each_part_and_numbers_of_classes(tmp_path: Path) -> None:
    labels = read_labels(METADATA.write(tmp_path), LabelOptions())
    assert labels.names == ["train/0001.png", "train/0002.png", "test/0001.png"]
    assert all(path.is_file() for path in labels.paths)
    assert labels.labels == [["cat"], ["hot dog"], ["hot dog"]]
    assert labels.parts == ["train", "train", "test"]
    assert "the numbers in 'label' are classes, their names in README.md" in labels.notes
    one = read_labels(tmp_path / "train" / "metadata.csv", LabelOptions())
    assert one.names == ["0001.png", "0002.png"] and one.labels == [["cat"], ["hot dog"]]


def test_lists_of_numbers(tmp_path: Path) -> None:
    labels = read_labels(METADATA_JSONL.write(tmp_path), LabelOptions())
    assert labels.labels == [["cat", "sky"], [], ["hot dog"]] and labels.parts is None
    (tmp_path / "README.md").unlink()
    labels = read_labels(tmp_path, LabelOptions())
    assert labels.labels == [["0", "2"], [], ["1"]]
    assert "the numbers in 'labels' are classes, as names: README.md has none" in labels.notes


def read(folder: Path, text: str | bytes, name: str = "metadata.csv", **how) -> Labels:
    return read_labels(Sample({name: text}, ()).write(folder), LabelOptions(**how))


def test_numbers_without_names(tmp_path: Path) -> None:
    labels = read(tmp_path, csv_of("file_name,label", "a.png,0", "b.png,1", "c.png,2"))
    assert labels.labels == [["0"], ["1"], ["2"]]
    says = "the numbers in 'label' are the names of the classes; README.md names none"
    assert says in labels.notes


@pytest.mark.parametrize(
    "head",
    [
        "features:\n  - name: label\n    dtype:\n      class_label:\n        names: [cat, dog]",
        "features:\n  - name: label\n    class_label: {names: {0: cat, 1: dog}}",
        "features:\n  - name: label\n    list: {class_label: {names: {'0': cat, '1': dog}}}",
    ],
)
def test_ways_to_name_classes(tmp_path: Path, head: str) -> None:

    card = f"---\ndataset_info:\n  {head}\n---\n"
    (tmp_path / "README.md").write_text(card)
    text = csv_of("file_name,label", "a.png,0", "b.png,1")
    assert read(tmp_path, text).labels == [["cat"], ["dog"]]


def test_parquet_and_a_column_of_another_name(tmp_path: Path) -> None:
    content = parquet(image_file_name=["a.png", "b.png"], labels=[["cat", "sky"], None])
    labels = read(tmp_path, content, "metadata.parquet")
    assert labels.names == ["a.png", "b.png"] and labels.labels == [["cat", "sky"], []]


def test_images_in_folders_of_parts(tmp_path: Path) -> None:
    text = csv_of("file_name,labels", "train/a.png,cat|dog", "test/a.png,cat", "val/b.png,dog")
    labels = read(tmp_path, text)
    assert labels.parts == ["train", "test", "val"]
    assert "the images' folders say what is for which part: 1 train, 1 val, 1 test" in labels.notes
    assert read(tmp_path, text, split_column="none").parts is None


def test_a_part_without_metadata_is_said(tmp_path: Path) -> None:
    data = replace(METADATA, images=(*METADATA.images, "validation/0001.png")).write(tmp_path)
    labels = read_labels(data, LabelOptions())
    assert "left out: validation/, without metadata" in labels.notes
    assert read_labels(data, LabelOptions(split_column="none")).parts is None


def refused(data: Path, says: str, **how) -> None:
    with pytest.raises(GrigriError) as error:
        read_labels(data, LabelOptions(**how))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "rows, says",
    [
        (["file_name,label", "0001.png,2"], "line 2, column 'label': 2 is no class of README.md"),
        (["file_name,label", "0001.png,-1"], "column 'label': -1 is no class of README.md"),
        (["file_name,label", "0001.png,0", "0002.png,cat"], "'cat' is no number of a class"),
        (["file_name,label", "0001.png,0", "0001.png,1"], "was in line 2 already"),
        (["file_name,text", "0001.png,a cat"], "no column is named labels"),
        (["name_of_file,label", "x,0"], "no column names the images"),
        (["left_file_name,right_file_name,label", "a.png,b.png,0"], "can both name the"),
    ],
)
def test_wrong_tables(tmp_path: Path, rows: list[str], says: str) -> None:
    files = {**METADATA.files, "train/metadata.csv": csv_of(*rows)}
    refused(replace(METADATA, files=files).write(tmp_path), says)


def test_what_is_ambiguous(tmp_path: Path) -> None:
    data = METADATA.write(tmp_path)
    refused(data, "--images does not go with files of metadata in several", images=tmp_path)
    (data / "train" / "metadata.jsonl").write_text("")
    refused(data, "ambiguous, found metadata.csv and metadata.jsonl; name the file itself")
    (tmp_path / "e").mkdir()
    refused(tmp_path / "e", "no metadata.csv or metadata.jsonl", layout="metadata")
    binary = csv_of("file_name,label", "a.png,0", "b.png,1")
    (tmp_path / "e" / "metadata.csv").write_text(binary)
    (data / "README.md").unlink()
    refused(tmp_path / "e", "'label' holds 0 and 1 alone")


@pytest.mark.parametrize(
    "head",
    ["a: [", "? " * 3000, "dataset_info: &a {features: *a}", "dataset_info: " + "[" * 5000, "\t:"],
    ids=lambda text: text[:20],
)
def test_damaged_heads_of_readme(tmp_path: Path, head: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    line = json.dumps({"file_name": "a.png", "labels": ["cat"]})
    try:
        labels = read(tmp_path, line, "metadata.jsonl")
    except GrigriError as error:
        assert "YAML" in str(error) or "references" in str(error)
        assert "\n" not in str(error)
    else:
        assert labels.labels == [["cat"]]


def test_a_feature_that_contains_itself(tmp_path: Path) -> None:
    head = "dataset_info:\n  features:\n  - &a\n    name: label\n    dtype: *a"
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    with pytest.raises(GrigriError, match="references"):
        read(tmp_path, csv_of("file_name,label", "a.png,cat", "b.png,dog"))
