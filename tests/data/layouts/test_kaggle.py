from dataclasses import replace
from pathlib import Path

import pytest
from label_samples import FASTAI, PLANET, Sample, csv_of

from grigri_fast.data.layouts import LabelOptions, Labels, read_labels
from grigri_fast.errors import GrigriError


def read(folder: Path, *rows: str, images: tuple[str, ...] = (), **how) -> Labels:
    data = Sample({"t.csv": csv_of(*rows)}, images, "t.csv").write(folder)
    return read_labels(data, LabelOptions(**how))


def refused(data: Path, says: str, **how) -> None:
    with pytest.raises(GrigriError) as error:
        read_labels(data, LabelOptions(**how))
    assert says in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------- Planet


@pytest.mark.parametrize("name", ["train_v2.csv", "train_classes.csv"])
def test_planet_as_it_is_unpacked(tmp_path: Path, name: str) -> None:
    files = {name: PLANET.files["train_v2.csv"], "sample_submission_v2.csv": "image_name,tags\n"}
    data = replace(PLANET, files=files).write(tmp_path)
    (data / "train-tif-v2").mkdir()
    (data / "train-tif-v2" / "train_0.tif").touch()
    labels = read_labels(data, LabelOptions())
    assert labels.names == ["train_0.jpg", "train_1.jpg", "train_2.jpg"]
    assert labels.paths[0] == data / "train-jpg" / "train_0.jpg"
    assert labels.labels == [
        ["haze", "primary"],
        ["agriculture", "clear", "primary", "water"],
        ["clear", "primary"],
    ]
    assert "labels are separated by space" in labels.notes
    assert "not used: sample_submission_v2.csv" in labels.notes


def test_planet_with_images_elsewhere(tmp_path: Path) -> None:
    data = PLANET.write(tmp_path)
    table = (data / "train_v2.csv").rename(tmp_path / "test-jpg" / "mine.csv")
    labels = read_labels(table, LabelOptions(images=tmp_path / "train-jpg"))
    assert all(path.is_file() for path in labels.paths)
    assert read_labels(table, LabelOptions(separator="none")).labels[0] == ["haze primary"]


def test_wrong_planet(tmp_path: Path) -> None:
    data = PLANET.write(tmp_path)
    refused(data / "train-jpg", "found none; name it as DATA", layout="planet")
    (data / "train_classes.csv").write_text("image_name,tags\ntrain_0,haze\n")
    refused(data, "found train_v2.csv, train_classes.csv")
    table = data / "train_v2.csv"
    table.write_text("image_name,tags\ntrain_0,haze\ntrain_0,clear\n")
    refused(table, "line 3: train_0.jpg was in line 2 already")
    table.write_text("image_name,tags\n,haze\n")
    refused(table, "line 2: no image name")
    table.write_text("image_name,tags\ntrain_0,haze,clear\n")
    refused(table, "line 2: 3 cells where the header has 2")
    (data / "train-jpg" / "train_1.png").touch()
    table.write_text("image_name,tags\ntrain_1,haze\n")
    refused(table, "train_1 can be train_1.jpg or train_1.png")


# ------------------------------------------------- other contests whose names have no suffix


def test_names_without_suffix(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "id,class_a,class_b",
        "0a1,1,0",
        "0a2,0,1",
        images=("train_images/0a1.png", "train_images/0a2.JPG", "other/x.png"),
    )
    assert labels.names == ["0a1.png", "0a2.JPG"] and all(p.is_file() for p in labels.paths)
    assert labels.labels == [["class_a"], ["class_b"]]
    assert "names are without suffix; files are .JPG, .png" in labels.notes


def test_numbers_as_names(tmp_path: Path) -> None:
    rows = ("image_id,labels", "17,healthy|rust", "18,scab")
    labels = read(tmp_path, *rows, images=("images/17.jpg", "images/18.jpg"))
    assert labels.names == ["17.jpg", "18.jpg"] and labels.labels[0] == ["healthy", "rust"]


def test_names_without_suffix_in_two_folders(tmp_path: Path) -> None:
    data = Sample({"t.csv": csv_of("id,a,b", "x,1,0")}, ("p/x.jpg", "q/x.jpg"), "t.csv")
    refused(data.write(tmp_path), "the images are in p and in q; --images says which")


# ---------------------------------------------------------------------------------- fastai


def test_fastai(tmp_path: Path) -> None:
    labels = read_labels(FASTAI.write(tmp_path), LabelOptions())
    assert labels.names[0] == "000005.jpg" and all(path.is_file() for path in labels.paths)
    assert labels.labels == [["chair"], ["car"], ["horse", "person"], ["car"]]
    assert labels.parts == ["val", "val", "train", "train"]
    assert "'is_valid' says what is for training, validation and test" in labels.notes
    assert "labels are separated by space" in labels.notes


def test_fastai_with_another_separator(tmp_path: Path) -> None:
    labels = read(tmp_path, "fname,labels", "a.jpg,hot dog|cat", "b.jpg,hot dog")
    assert labels.labels == [["hot dog", "cat"], ["hot dog"]] and labels.parts is None
    given = read(tmp_path, "fname,labels", "a.jpg,hot dog", separator="none")
    assert given.labels == [["hot dog"]]


@pytest.mark.parametrize(
    "rows, says",
    [
        (["fname,labels,is_valid", "a.jpg,cat,maybe"], "column 'is_valid': 'maybe' is no part"),
        (["fname,labels,is_valid", "a.jpg,cat,True", "b.jpg,dog,"], "is no part of a split"),
        (["fname,labels,is_valid", "a.jpg,cat,1", "b.jpg,dog,False"], "is no part of a split"),
        (["fname,labels", "a.jpg,cat", "a.jpg,dog"], "line 3: a.jpg was in line 2 already"),
        (["fname,labels", "a.jpg,cat|dog", "b.jpg,cat;dog"], "both '|' ('cat|dog') and ';'"),
        (["fname,labels,fname", "a.jpg,cat,b.jpg"], "the column 'fname' stands there twice"),
        (["fname,labels", "a.jpg"], "line 2: 1 cells where the header has 2"),
    ],
)
def test_wrong_fastai(tmp_path: Path, rows: list[str], says: str) -> None:
    refused(Sample({"t.csv": csv_of(*rows)}, (), "t.csv").write(tmp_path), says)
