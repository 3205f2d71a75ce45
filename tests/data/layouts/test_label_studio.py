import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grigri_fast.data.layouts import LabelOptions, label_studio
from grigri_fast.errors import GrigriError


def choice(*labels: str, name: str = "choice") -> dict[str, Any]:
    return {
        "value": {"choices": list(labels)},
        "id": "a1",
        "from_name": name,
        "to_name": "image",
        "type": "choices",
        "origin": "manual",
    }


def box(*labels: str) -> dict[str, Any]:
    return {
        "original_width": 600,
        "value": {"x": 1.5, "y": 2, "width": 3, "height": 4, "rectanglelabels": list(labels)},
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
    }


def annotation(*results: dict[str, Any], day: int = 1, **more: Any) -> dict[str, Any]:
    when = f"2026-01-{day:02}T10:00:00.000000Z"
    about = {"completed_by": 1, "was_cancelled": False, "ground_truth": False, "updated_at": when}
    return {"id": day, "result": list(results), **about, **more}


# As Label Studio 1.x exports it, shortened; task 3 is not annotated, task 4 was skipped.
TASKS = [
    {
        "id": 1,
        "annotations": [annotation(choice("cat", "indoor"))],
        "file_upload": "0a1b2c3d-a.jpg",
        "drafts": [],
        "predictions": [{"result": [choice("dog")]}],
        "data": {"image": "/data/upload/5/0a1b2c3d-a.jpg", "text": "of a house"},
    },
    {
        "id": 2,
        "annotations": [
            annotation(choice("dog"), day=3),
            annotation(choice("cat"), day=2),
            annotation(choice("cow"), day=4, was_cancelled=True),
        ],
        "data": {"image": "/data/upload/5/1a1b2c3d-b.jpg", "text": ""},
    },
    {"id": 3, "annotations": [], "data": {"image": "/data/upload/5/2a1b2c3d-c.jpg"}},
    {
        "id": 4,
        "annotations": [annotation(was_cancelled=True)],
        "data": {"image": "/data/upload/5/3a1b2c3d-d.jpg"},
    },
    {
        "id": 5,
        "annotations": [annotation()],
        "data": {"image": "/data/upload/5/4a1b2c3d-e.jpg"},
    },
]
ABOUT = {"annotator": 1, "annotation_id": 7, "created_at": "2026-01-01", "lead_time": 3.5}
MIN = [
    {
        "image": "/data/upload/5/0a1b2c3d-a.jpg",
        "text": "of a house",
        "id": 1,
        "choice": {"choices": ["cat", "indoor"]},
        **ABOUT,
        "updated_at": "2026-01-01",
    },
    {
        "image": "/data/upload/5/1a1b2c3d-b.jpg",
        "text": "",
        "id": 2,
        "choice": "dog",
        **ABOUT,
        "updated_at": "2026-01-03",
    },
    {
        "image": "/data/upload/5/1a1b2c3d-b.jpg",
        "text": "",
        "id": 2,
        "choice": "cat",
        **ABOUT,
        "updated_at": "2026-01-02",
    },
    {
        "image": "/data/upload/5/4a1b2c3d-e.jpg",
        "text": "",
        "id": 5,
        **ABOUT,
        "updated_at": "2026-01-01",
    },
]


def as_csv(records: list[dict[str, Any]], delimiter: str = ",") -> str:
    out = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(out, names, delimiter=delimiter)
    writer.writeheader()
    for record in records:
        writer.writerow(
            {k: v if isinstance(v, str) else json.dumps(v) for k, v in record.items()}
        )  # fmt: skip
    return out.getvalue()


def write(folder: Path, content: Any, name: str = "project-1-at-2026.json") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def unpacked(folder: Path) -> Path:
    return write(folder, TASKS)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (TASKS, "a.json"),
        (MIN, "a.json"),
        (as_csv(MIN), "a.csv"),
        (as_csv(MIN, "\t"), "a.tsv"),
    ],
)
def test_the_exports_say_the_same(tmp_path: Path, content: Any, name: str) -> None:
    file = write(tmp_path, content, name)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.jpg").touch()
    assert label_studio.is_here(file) and label_studio.is_here(tmp_path)
    labels = label_studio.read(tmp_path, LabelOptions())
    assert labels.names == ["a.jpg", "b.jpg", "e.jpg"]
    assert labels.paths == [tmp_path / "images" / name for name in labels.names]
    assert labels.labels == [["cat", "indoor"], ["dog"], []]
    assert labels.class_names == ["cat", "dog", "indoor"]
    assert labels.parts is None and labels.unknown is None
    assert labels.notes[0] == "labels from choice, images from image"
    assert labels.notes[-1] == (
        "1 image with several annotations, which differ in 1: the ground truth counts, else the "
        "latest"
    )
    if content is TASKS:
        assert labels.notes[1] == (
            "left out: 2 images without annotation, or skipped by the annotators"
        )


def test_the_ground_truth_counts(tmp_path: Path) -> None:
    tasks = json.loads(json.dumps(TASKS[1:2]))
    tasks[0]["annotations"][1]["ground_truth"] = True
    write(tmp_path, tasks)
    assert label_studio.read(tmp_path, LabelOptions()).labels == [["cat"]]


def test_boxes(tmp_path: Path) -> None:
    image = "/data/local-files/?d=pets/deep%20er/a.jpg"
    rating = {"type": "rating", "value": {"rating": 3}, "from_name": "stars"}
    results = [box("Car"), box("Car"), choice("day"), rating]
    write(tmp_path, [{"id": 1, "annotations": [annotation(*results)], "data": {"image": image}}])
    folder = tmp_path / "deep er"
    folder.mkdir()
    (folder / "a.jpg").touch()
    labels = label_studio.read(tmp_path, LabelOptions())
    assert labels.labels == [["Car", "day"]] and labels.names == ["pets/deep er/a.jpg"]
    assert labels.paths == [folder / "a.jpg"]
    assert labels.notes[-1] == "left out: answers of the kind 'rating'"
    only = label_studio.read(tmp_path, LabelOptions(label_columns=("label",), images=tmp_path))
    assert only.labels == [["Car"]]
    shape = {"x": 1, "rectanglelabels": ["Car"], "original_width": 6}
    write(tmp_path, [{"image": image, "id": 1, "label": [shape, shape], **ABOUT}])
    assert label_studio.read(tmp_path, LabelOptions()).labels == [["Car"]]


def test_names_that_were_uploaded_twice_keep_their_prefix(tmp_path: Path) -> None:
    data = [f"/data/upload/{n}/{n}a1b2c3d-a.jpg" for n in (1, 2)]
    tasks = [
        {"id": n, "annotations": [annotation(choice("x"))], "data": {"image": image}}
        for n, image in enumerate(data)
    ]
    write(tmp_path, tasks)
    assert label_studio.read(tmp_path, LabelOptions()).names == [
        "1/1a1b2c3d-a.jpg",
        "2/2a1b2c3d-a.jpg",
    ]


def test_others_are_not_exports(tmp_path: Path) -> None:
    write(tmp_path, '{"images": [], "annotations": []}', "coco.json")
    write(tmp_path, [{"file_name": "a.jpg", "annotations": []}], "own.json")
    write(tmp_path, "image,labels\na.jpg,x\n", "a.csv")
    assert not label_studio.is_here(tmp_path) and not label_studio.is_here(tmp_path / "none")


Change = Callable[[list[Any]], Any]


def set_result(result: Any) -> Change:
    return lambda tasks: tasks[0]["annotations"][0].update(result=[result])


TEXT = {"type": "textarea", "from_name": "note", "value": {"text": ["x"]}}
ODD = {"type": "rating", "from_name": "choice", "value": {"rating": 1}}
WRONG: list[tuple[str, list[Any], Change, str]] = [
    ("empty", TASKS, lambda t: t.clear(), "not a list of tasks"),
    ("no object", TASKS, lambda t: t.append(3), "task 5: not an object"),
    ("no data", TASKS, lambda t: t[1].pop("data"), "task 1: no data or no annotations"),
    ("no result", TASKS, lambda t: t[0]["annotations"][0].pop("result"), "without a result"),
    ("odd result", TASKS, set_result("cat"), "task 0: a result that is no object"),
    ("no choices", TASKS, set_result({**choice(), "value": {}}), "choices: expected a list of lab"),
    ("odd choice", TASKS, set_result({**choice(), "value": {"choices": [3]}}), "the name of a cla"),
    ("no labels", TASKS[:1], set_result(TEXT), "no annotation has labels"),
    ("none", TASKS[2:4], lambda t: None, "no annotation has labels"),
    ("no image", TASKS, lambda t: t[0].update(data={"image": None}), "task 0: image: expected the"),
    (
        "two images",
        TASKS,
        lambda t: t[0]["data"].update(b="b.png"),
        "image, b name images;",
    ),
    (
        "no images",
        TASKS[:1],
        lambda t: t[0].update(data={"a": "b", "image": 3}),
        "none of a, image names an",
    ),
    (
        "base64",
        TASKS,
        lambda t: t[0]["data"].update(image="data:image/png;base64,AA"),
        "an image",
    ),
    ("image twice", TASKS, lambda t: t.append(TASKS[0]), "task 5: .*a.jpg was in .*task 0 already"),
    (
        "one word, two controls",
        TASKS,
        lambda t: t[1]["annotations"].append(annotation(choice("cat", name="other"))),
        "'cat' is an answer of choice and of other; --label-columns other",
    ),
    (
        "other data",
        MIN,
        lambda t: t[2].update(image="/data/upload/x.jpg"),
        "has the id 2 of",
    ),
    (
        "text",
        MIN,
        lambda t: t[1].update(note="blurred"),
        "note can be labels or written text;",
    ),
    (
        "odd MIN",
        MIN,
        lambda t: t[0].update(choice={"choices": "cat"}),
        "choice: expected a li",
    ),
    ("no MIN", [{"image": "a.jpg"}], lambda t: None, "neither annotations, nor id and"),
    ("no id", MIN, lambda t: t[0].pop("id"), "task 0: no id"),
    ("other", MIN, lambda t: t[0].update(choice={"choicez": ["a"]}), "of choice is no label"),
    ("cut", MIN, lambda t: t[0].update(choice='{"choices": ["a'), "is damaged JSON"),
    ("other kind", TASKS, lambda t: t[4]["annotations"][0].update(result=[ODD]), "is no label, as"),
]


@pytest.mark.parametrize(
    ("content", "change", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_wrong_exports_are_refused(
    tmp_path: Path, content: list[Any], change: Change, message: str
) -> None:
    content = json.loads(json.dumps(content))
    change(content)
    file = write(tmp_path, content)
    with pytest.raises(GrigriError, match=message) as error:
        label_studio.read(file, LabelOptions())
    assert str(error.value).startswith(str(file))


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrigriError, match="no such file; expected an export of Label Studio"):
        label_studio.read(tmp_path, LabelOptions())
    file = unpacked(tmp_path)
    with pytest.raises(GrigriError, match="--label-columns x: no such answers; there are choice"):
        label_studio.read(file, LabelOptions(label_columns=("x",)))
    with pytest.raises(GrigriError, match="--image-column x: no such key; there are image, text"):
        label_studio.read(file, LabelOptions(image_column="x"))
    with pytest.raises(GrigriError, match="--separator does not go with Label Studio"):
        label_studio.read(file, LabelOptions(separator=","))
    write(tmp_path, as_csv(MIN), "b.csv")
    with pytest.raises(GrigriError, match=r"found b\.csv, project-1-at-2026\.json; name one"):
        label_studio.read(tmp_path, LabelOptions())


def test_a_csv_whose_names_of_columns_are_mixed_up(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_text(
        "image,id,annotation_id,annotator,choice,created_at,updated_at,lead_time\n"
        '/data/upload/5/0a1b2c3d-a.jpg,1,"{""choices"": [""cat""]}",1,7,2026-01-01,2026-01-01,3.5\n'
    )
    with pytest.raises(GrigriError, match="annotation_id holds an answer"):
        label_studio.read(file, LabelOptions())
