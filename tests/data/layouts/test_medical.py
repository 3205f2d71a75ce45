from dataclasses import replace
from pathlib import Path

import pytest
from label_samples import CHEXPERT, XRAY14

from grigri_fast.data.layouts import LabelOptions, medical, read_labels
from grigri_fast.errors import GrigriError

TRAIN = "CheXpert-v1.0-small/train.csv"
PATHS = [
    "train/patient00001/study1/view1_frontal.jpg",
    "train/patient00002/study2/view1_frontal.jpg",
    "train/patient00002/study1/view2_lateral.jpg",
    "valid/patient64541/study1/view1_frontal.jpg",
]


@pytest.mark.parametrize("place", ["CheXpert-v1.0-small", "."])
def test_chexpert_as_it_is_unpacked(tmp_path: Path, place: str) -> None:
    CHEXPERT.write(tmp_path)
    data = tmp_path / place
    labels = read_labels(data, LabelOptions())
    assert labels.names == PATHS and all(path.is_file() for path in labels.paths)
    assert len(labels.class_names) == 14
    assert labels.labels == [
        ["No Finding", "Support Devices"],
        ["Lung Opacity", "Fracture"],
        ["Lung Opacity", "Fracture"],
        ["Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity"],
    ]
    assert labels.unknown == [
        [],
        ["Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"],
        ["Consolidation"],
        [],
    ]
    assert labels.parts == ["train", "train", "train", "val"]
    assert labels.groups == ["patient00001", "patient00002", "patient00002", "patient64541"]
    assert "6 uncertain labels (-1) are unknown" in labels.notes
    assert "29 labels not mentioned (empty cells) are taken as absent" in labels.notes


@pytest.mark.parametrize("place", ["folder", "renamed", "images"])
def test_chexpert_table_alone_and_elsewhere(tmp_path: Path, place: str) -> None:
    data, how = CHEXPERT.write(tmp_path), {}
    if place == "renamed":
        data = data.rename(tmp_path / "xrays")
    table = data / "train.csv"
    if place == "images":
        how = {"images": tmp_path}
        table = table.rename(tmp_path / "somewhere.csv")
    labels = read_labels(table, LabelOptions(**how))
    assert labels.names == PATHS[:3] and all(path.is_file() for path in labels.paths)
    assert labels.parts is None and labels.groups is not None


def test_chexpert_without_its_parts_and_patients(tmp_path: Path) -> None:
    options = LabelOptions(split_column="none", group_column="none")
    labels = read_labels(CHEXPERT.write(tmp_path), options)
    assert labels.parts is None and labels.groups is None and len(labels.names) == 4


def changed_chexpert(old: str, new: str):
    return replace(
        CHEXPERT, files={**CHEXPERT.files, TRAIN: CHEXPERT.files[TRAIN].replace(old, new, 1)}
    )


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("0.0,,,,1.0", "0.5,,,,1.0", "line 2, column 'Pneumothorax': '0.5' is neither 1.0, 0.0,"),
        (",,-1.0,1.0", ",,u,1.0", "line 3, column 'Cardiomegaly': 'u' is neither"),
        ("patient00002/study2/view1_frontal", "patient00001/study1/view1_frontal", "was in"),
        (",1.0,,,,,,,,,0.0", ",1.0,,0.0", "cells where the header has 19"),
        ("No Finding", "Edema", "the column 'Edema' stands there twice"),
        ("CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg", "", "the name of an"),
    ],
)
def test_wrong_chexpert(tmp_path: Path, old: str, new: str, says: str) -> None:
    refused(changed_chexpert(old, new).write(tmp_path), says)


def refused(data: Path, says: str, **how) -> None:
    with pytest.raises(GrigriError) as error:
        read_labels(data, LabelOptions(**how))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_options_that_do_not_go_with_chexpert(tmp_path: Path) -> None:
    data = CHEXPERT.write(tmp_path)
    refused(data, "--label-columns does not go with CheXpert", label_columns=("Edema",))
    refused(data, "only --split-column none", group_column="Sex")
    (data / "valid.csv").write_text((data / "train.csv").read_text())
    refused(data, "view1_frontal.jpg is in two of train.csv, valid.csv")
    refused(data / "train.csv", "not ChestX-ray14: it has no column 'Image", layout="chest-xray14")
    (tmp_path / "t.csv").write_text("Path,Sex,Age,Frontal/Lateral,AP/PA\na.jpg,F,1,F,AP\n")
    refused(tmp_path / "t.csv", "no columns of observations")


# ---------------------------------------------------------------------------- ChestX-ray14


def test_xray14_as_it_is_unpacked(tmp_path: Path) -> None:
    labels = read_labels(XRAY14.write(tmp_path), LabelOptions())
    assert labels.names == [f"0000000{n}.png" for n in ("1_000", "1_001", "2_000", "3_000")]
    assert labels.paths[3] == tmp_path / "images_002" / "images" / "00000003_000.png"
    assert all(path.is_file() for path in labels.paths)
    assert labels.labels == [
        ["Cardiomegaly"],
        ["Cardiomegaly", "Emphysema"],
        [],
        ["Hernia", "Pleural_Thickening"],
    ]
    assert labels.class_names == ["Cardiomegaly", "Emphysema", "Hernia", "Pleural_Thickening"]
    assert labels.parts == ["train", "train", "train", "test"]
    assert labels.groups == ["00001", "00001", "00002", "00003"]
    assert "read as no label (--no-label): 'No Finding' (1)" in labels.notes
    assert any("train_val_list.txt" in note and "3 train, 1 test" in note for note in labels.notes)


def test_xray14_table_without_lists(tmp_path: Path) -> None:
    data = XRAY14.write(tmp_path)
    (data / "test_list.txt").unlink()
    labels = read_labels(data / "Data_Entry_2017.csv", LabelOptions())
    assert labels.parts is None
    assert "train_val_list.txt is not used, as there is no test_list.txt beside it" in labels.notes
    options = LabelOptions(no_label=(), group_column="none")
    with_none = read_labels(data / "Data_Entry_2017.csv", options)
    assert with_none.labels[2] == ["No Finding"] and with_none.groups is None


def test_xray14_header_without_the_comma_at_its_end(tmp_path: Path) -> None:
    data = XRAY14.write(tmp_path)
    table = data / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("y],\n", "y]\n").replace(",\n", "\n"))
    assert medical.is_xray14(data) and len(read_labels(data, LabelOptions()).names) == 4


@pytest.mark.parametrize(
    "file, old, new, says",
    [
        ("Data_Entry_2017.csv", "No Finding", "No Finding|Hernia", "has findings and none at once"),
        ("Data_Entry_2017.csv", "No Finding", "", "line 4, column 'Finding Labels': empty"),
        ("Data_Entry_2017.csv", "00000001_001", "00000001_000", "was in"),
        ("Data_Entry_2017.csv", "00000002_000.png", "", "the name of an image"),
        ("Data_Entry_2017.csv", ",00002,", ",00003,", "'00003' is not the patient of 00000002_000"),
        ("Data_Entry_2017.csv", "Follow-up #", "x,Follow-up #", "is not the patient of 0000"),
        ("test_list.txt", "00000003", "00000002", "is in the other list, too"),
        ("test_list.txt", "00000003", "00000009", "name none of the table's images"),
    ],
)
def test_wrong_xray14(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    files = {**XRAY14.files, file: XRAY14.files[file].replace(old, new, 1)}
    refused(replace(XRAY14, files=files).write(tmp_path), says)


def test_two_tables_or_images_of_one_name(tmp_path: Path) -> None:
    data = XRAY14.write(tmp_path)
    (data / "images_002" / "images" / "00000001_000.png").touch()
    refused(data, "have one name; --images says which")
    (data / "Data_Entry_2017_v2020.csv").write_text((data / "Data_Entry_2017.csv").read_text())
    refused(data, "expected one table such as Data_Entry_2017.csv, found")
    refused(data, "no train.csv, valid.csv or test.csv of CheXpert", layout="chexpert")
