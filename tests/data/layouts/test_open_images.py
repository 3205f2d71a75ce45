from dataclasses import replace
from pathlib import Path

import pytest
from label_samples import OPEN_IMAGES, OPEN_IMAGES_HEADER, csv_of

from grigri_fast.data.layouts import LabelOptions, read_labels
from grigri_fast.errors import GrigriError

VALIDATION = "validation-annotations-human-imagelabels.csv"


def test_the_folder(tmp_path: Path) -> None:
    labels = read_labels(OPEN_IMAGES.write(tmp_path), LabelOptions())
    assert labels.names[0] == "000026e7ee790996.jpg"
    assert labels.paths[3] == tmp_path / "test" / "000a1249af2bc5f0.jpg"
    assert all(path.is_file() for path in labels.paths)
    assert labels.class_names == ["Airplane", "Human head", "Person", "Tree"]
    assert labels.labels == [["Tree", "Person"], ["Tree"], ["Airplane"], ["Person"]]
    assert labels.unknown is not None and list(labels.unknown) == [
        ["Airplane"],
        ["Airplane", "Human head"],
        ["Human head", "Person", "Tree"],
        ["Human head", "Tree"],
    ]
    assert labels.parts == ["train", "train", "val", "test"]
    assert "names of classes are from class-descriptions.csv" in labels.notes
    assert any("3 rows say that a label is absent" in note for note in labels.notes)


def read(folder: Path, *rows: str, **how):
    (folder / "t.csv").write_text(OPEN_IMAGES_HEADER + csv_of(*rows))
    return read_labels(folder / "t.csv", LabelOptions(**how))


def test_positive_labels_alone(tmp_path: Path) -> None:
    labels = read(tmp_path, "a,x,/m/1,1", "a,x,/m/2,1.0", "b,x,/m/1,1")
    assert labels.labels == [["/m/1", "/m/2"], ["/m/1"]] and labels.unknown is None
    assert "labels that are not listed for an image are taken as absent" in labels.notes
    assert "put class-descriptions.csv beside the table for the classes' names" in labels.notes


def test_confidences_of_a_machine(tmp_path: Path) -> None:
    labels = read(tmp_path, "a,machine,/m/1,0.9", "a,machine,/m/2,0.4", "b,machine,/m/2,0.5")
    assert labels.labels == [["/m/1"], ["/m/2"]] and labels.unknown is None
    assert "an image has a label from a confidence of 0.5 on" in labels.notes


def test_a_contradiction_is_unknown(tmp_path: Path) -> None:
    labels = read(tmp_path, "a,x,/m/1,1", "a,y,/m/1,0", "a,x,/m/2,1", "b,x,/m/2,0", "b,x,/m/1,0")
    assert labels.labels == [["/m/2"], []]
    assert labels.unknown is not None and list(labels.unknown) == [["/m/1"], []]
    assert any("unknown: 1 label that an image has in one row" in note for note in labels.notes)


def test_classes_of_one_name_stay_two(tmp_path: Path) -> None:
    (tmp_path / "oidv6-class-descriptions.csv").write_text(
        "LabelName,DisplayName\n/m/1,Light\n/m/2,Light\n/m/3,Cat\n"
    )
    labels = read(tmp_path, "a,x,/m/1,1", "b,x,/m/2,1", "b,x,/m/3,1", "b,x,/m/4,1")
    assert labels.class_names == ["/m/4", "Cat", "Light (/m/1)", "Light (/m/2)"]
    says = "codes are added where two classes have one name: Light (/m/1), Light (/m/2), ..."
    assert says in labels.notes
    assert "1 class not named there: /m/4, ..." in labels.notes


def test_other_files_beside(tmp_path: Path) -> None:
    data = OPEN_IMAGES.write(tmp_path)
    (data / "train-annotations-bbox.csv").write_text("ImageID,Source,LabelName,Confidence,XMin\n")
    labels = read_labels(data, LabelOptions())
    assert any(note.startswith("not used: train-annotations-bbox.csv") for note in labels.notes)
    assert read_labels(data, LabelOptions(split_column="none")).parts is None


@pytest.mark.parametrize(
    "old, new, says",
    [
        (",1\n", ",2\n", "line 2, column 'Confidence': '2' is no confidence from 0 to 1"),
        (",1\n", ",yes\n", "'yes' is no confidence"),
        (",1\n", ",nan\n", "'nan' is no confidence"),
        (",1\n", ",\n", "'' is no confidence"),
        ("/m/0cmf2", "", "line 2, column 'LabelName': no label"),
        ("0001eeaf4aed83f9,", ",", "line 2: no image name"),
        ("0001eeaf4aed83f9", "000026e7ee790996", "is in train, too"),
        ("Confidence", "Score", "not Open Images: it has no column 'Confidence'"),
        (",verification", "", "3 cells where the header has 4"),
    ],
)
def test_wrong_tables(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = OPEN_IMAGES.files[VALIDATION].replace(old, new, 1)
    data = replace(OPEN_IMAGES, files={**OPEN_IMAGES.files, VALIDATION: text}).write(tmp_path)
    with pytest.raises(GrigriError) as error:
        read_labels(data, LabelOptions())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_is_ambiguous(tmp_path: Path) -> None:
    data = OPEN_IMAGES.write(tmp_path)
    with pytest.raises(GrigriError, match="--separator does not go with Open Images"):
        read_labels(data, LabelOptions(separator="|"))
    with pytest.raises(GrigriError, match="--split-column none"):
        read_labels(data, LabelOptions(split_column="Source"))
    (data / f"oidv6-{VALIDATION}").write_text(OPEN_IMAGES_HEADER)
    with pytest.raises(GrigriError, match="are of one part; name one of them"):
        read_labels(data, LabelOptions())
    with pytest.raises(GrigriError, match="expected a code and a name"):
        (data / "class-descriptions.csv").write_text("/m/01g317\n")
        read_labels(data / VALIDATION, LabelOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(GrigriError, match="no train-annotations-human-imagelabels"):
        read_labels(tmp_path / "empty", LabelOptions(layout="open-images"))
