import json
from dataclasses import replace
from pathlib import Path

import pytest
from label_samples import VERTEX, VERTEX_JSONL, Sample, csv_of

from grigri_fast.data.layouts import LabelOptions, read_labels
from grigri_fast.errors import GrigriError


def test_rows(tmp_path: Path) -> None:
    labels = read_labels(VERTEX.write(tmp_path), LabelOptions())
    assert labels.names == ["pets/a.jpg", "pets/b.jpg", "pets/c.jpg", "pets/d.jpg"]
    assert all(path.is_file() for path in labels.paths)
    assert labels.labels == [["cat", "dog"], ["cat"], ["hot dog"], []]
    assert labels.class_names == ["cat", "dog", "hot dog"]
    assert labels.parts == ["train", "test", "val", ""]
    assert "1 image without label" in labels.notes
    assert read_labels(tmp_path, LabelOptions()).labels == labels.labels  # the folder


def test_objects(tmp_path: Path) -> None:
    labels = read_labels(VERTEX_JSONL.write(tmp_path), LabelOptions())
    assert labels.names == ["a.jpg", "b.jpg", "c.jpg"] and all(p.is_file() for p in labels.paths)
    assert labels.labels == [["cat", "dog"], ["cat"], []]
    assert labels.parts == ["train", "test", "train"]
    assert read_labels(tmp_path / "import.jsonl", LabelOptions(split_column="none")).parts is None


def test_single_label_objects(tmp_path: Path) -> None:
    record = {"imageGcsUri": "gs://b/x/a.jpg", "classificationAnnotation": {"displayName": "cat"}}
    data = Sample({"i.jsonl": json.dumps(record)}, ("a.jpg",), "i.jsonl").write(tmp_path)
    labels = read_labels(data, LabelOptions())
    assert labels.names == ["a.jpg"] and labels.labels == [["cat"]] and labels.parts is None


@pytest.mark.parametrize("place", ["photos/2024/a.jpg", "2024/a.jpg", "a.jpg", "images/a.jpg"])
def test_where_the_bucket_is_on_this_machine(tmp_path: Path, place: str) -> None:
    rows = csv_of("gs://b/photos/2024/a.jpg,cat", "gs://b/photos/2024/gone.jpg,dog")
    data = Sample({"i.csv": rows}, (place,), "i.csv").write(tmp_path)
    labels = read_labels(data, LabelOptions())
    assert labels.paths[0] == tmp_path / place and labels.paths[0].is_file()
    assert labels.parts is None
    elsewhere = Sample({"i.csv": rows}, (), "i.csv").write(tmp_path / "lists")
    found = read_labels(elsewhere, LabelOptions(images=tmp_path))
    assert found.paths[0] == tmp_path / place or place == "images/a.jpg"


def test_all_for_training_is_no_split(tmp_path: Path) -> None:
    text = VERTEX.files["import.csv"].replace("TEST", "TRAIN").replace("VALIDATION", "training")
    data = replace(VERTEX, files={"import.csv": text}).write(tmp_path)
    labels = read_labels(data, LabelOptions())
    assert labels.parts is None
    assert "all parts that are given are for training: no split" in labels.notes


@pytest.mark.parametrize(
    "rows, says",
    [
        (["gs://b/a.jpg,cat", "HOLDOUT,gs://b/b.jpg,cat"], "line 2: 'HOLDOUT' is neither gs://"),
        (["gs://b/a.jpg,cat", "a.jpg,cat"], "line 2: 'a.jpg' is neither gs://"),
        (["gs://b/a.jpg,cat", "gs://b/a.jpg,dog"], "line 2: a.jpg was in"),
        (["gs://b/a.jpg,cat", "TEST"], "line 2: no image"),
        (["gs://b/a.jpg,cat", "TEST,s3://b/b.jpg"], "is not of the form gs://bucket/image.jpg"),
        (["gs://b/a.jpg,cat", "gs://b"], "is not of the form gs://bucket/image.jpg"),
        (["gs://b/a.jpg,cat,,dog"], "line 1: an empty label between others"),
        (["TRAIN,gs://b/a.jpg,cat,0.1,0.2,,,0.3,0.4,,"], "a row of a box, not of an image"),
        (['gs://b/a.jpg,"cat'], "not a valid CSV"),
    ],
)
def test_wrong_rows(tmp_path: Path, rows: list[str], says: str) -> None:
    (tmp_path / "i.csv").write_text(csv_of(*rows))
    refused(tmp_path / "i.csv", says)


def refused(data: Path, says: str, **how) -> None:
    with pytest.raises(GrigriError) as error:
        read_labels(data, LabelOptions(**how))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"imageGcsUri": 3}, "expected an object with 'imageGcsUri'"),
        ({"classificationAnnotations": "cat"}, "must be a list of objects"),
        ({"classificationAnnotations": [{"displayName": ""}]}, "the name of a class"),
        ({"classificationAnnotations": [{}]}, "the name of a class"),
        ({"boundingBoxAnnotations": []}, "boxes, not labels of an image"),
        (
            {"dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "holdout"}},
            "ml_use must be training, validation or test",
        ),
        ({"dataItemResourceLabels": [1]}, "ml_use must be training, validation or test"),
    ],
)
def test_wrong_objects(tmp_path: Path, change: dict, says: str) -> None:
    good = {"imageGcsUri": "gs://b/a.jpg", "classificationAnnotations": []}
    wrong = {"imageGcsUri": "gs://b/b.jpg", "classificationAnnotations": [], **change}
    (tmp_path / "i.jsonl").write_text(csv_of(json.dumps(good), json.dumps(wrong)))
    refused(tmp_path / "i.jsonl", says)


def test_what_is_wrong_as_a_whole(tmp_path: Path) -> None:
    data = VERTEX.write(tmp_path)
    refused(tmp_path, "name the file of rows itself as DATA", layout="vertex")
    refused(data, "--separator does not go with Vertex AI rows", separator="|")
    refused(data, "Vertex AI rows have no columns with names", split_column="ml_use")
    (tmp_path / "empty.csv").write_text("\n")
    refused(tmp_path / "empty.csv", "no rows; expected gs://", layout="vertex")
    (tmp_path / "i.jsonl").write_text('{"imageGcsUri": "gs://b/a.jpg"}\n')
    refused(tmp_path / "i.jsonl", "no classificationAnnotations; write [] for no label")
