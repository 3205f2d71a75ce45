"""Photographs that ``suggest`` has chosen: labelled on the page, then in the training part."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_set import CLASSES, write_image
from small_site import NASTY, client_of, train
from starlette.testclient import TestClient

import grigri_fast
from grigri_fast.curation import suggestions as tables
from grigri_fast.data import split
from grigri_fast.errors import GrigriError
from grigri_fast.runtime.compute import Compute
from grigri_fast.serving.review import ALL
from grigri_fast.serving.scored_run import ScoredRun

PROBABILITIES = {"cat": 0.9, "dog": 0.3, NASTY: 0.55}
WHY = f"in doubt: {NASTY} 0.55, dog 0.30, cat 0.90"


def write_suggestions(folder: Path, *numbers: int) -> Path:
    """Write photographs without labels, and a table as ``suggest`` does; return the table."""
    folder.mkdir(exist_ok=True)
    table = folder / "suggestions.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels", "score", "why", *(f"p({c})" for c in PROBABILITIES)])
        for number in numbers:
            image = folder / f"new{number}.jpg"
            write_image(image, number)
            writer.writerow([image, f"cat|{NASTY}", "0.1", WHY, *PROBABILITIES.values()])
    return table


@pytest.fixture(scope="session")
def suggestions(tmp_path_factory) -> Path:
    return write_suggestions(tmp_path_factory.mktemp("pool") / "new", 70, 71)


@pytest.fixture
def site(scored: ScoredRun, suggestions: Path, tmp_path: Path) -> Iterator[TestClient]:
    to_label = tables.read(suggestions.parent, scored.data.class_names)
    with client_of(scored, tmp_path / "c.csv", unlabelled=to_label) as client:
        yield client


def lines_of(file: Path) -> list[tuple[str, str, str]]:
    with file.open() as lines:
        return [(line["image"], line["class"], line["value"]) for line in csv.DictReader(lines)]


def test_a_photograph_gets_all_its_labels_at_once(
    site, scored: ScoredRun, suggestions: Path
) -> None:
    first, names = len(scored.data), scored.data.class_names
    image = str(suggestions.parent / "new70.jpg")
    asked = site.get("/review/questions?kind=suggestions").json()
    assert asked[0] == [first, ALL, WHY, "", image] and len(asked) == 2
    shown = site.get(f"/labels/{first}").json()
    assert [(one["name"], one["value"], one["probability"]) for one in shown] == [
        ("cat", "1", 0.9), (NASTY, "1", 0.55), ("dog", "0", 0.3),
    ]  # fmt: skip
    assert site.get(f"/photo/{first}").headers["content-type"] == "image/jpeg"
    assert site.get("/review/state").json()["decisions"] == []

    has = {"row": first, "has": [names.index("dog")]}
    state = site.post("/review/label", json=has).json()
    assert state["decisions"] == [[first, ALL, "1"]]
    assert (state["num_added"], state["num_changed"], state["can_undo"]) == (1, 0, True)
    expected = [(image, name, "1" if name == "dog" else "0") for name in names]
    assert lines_of(site.corrections) == expected
    assert site.get("/review/state").json()["decisions"] == [[first, ALL, "1"]]
    assert site.post("/review/label", json=has).status_code == 200  # of another tab: the same
    assert lines_of(site.corrections) == expected
    other = site.post("/review/label", json={"row": first, "has": []})
    assert other.status_code == 409 and "another tab has labelled" in other.json()["error"]

    state = site.post("/review/undo").json()
    assert state["decisions"] == [[first, ALL, "given"]] and state["num_added"] == 0
    assert lines_of(site.corrections)[3:] == [(image, name, "given") for name in names]
    assert site.post("/review/label", json={"row": first, "has": []}).status_code == 200


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"row": 0, "has": [0]}, 404),  # one of the data
        ({"row": -1, "has": [0]}, 404),
        ({"row": 10**6, "has": [0]}, 404),
        ({"row": 48, "has": [99]}, 404),
        ({"row": 48, "has": [-1]}, 404),
        ({"row": 48, "has": ["0"]}, 400),
        ({"row": "48", "has": [0]}, 400),
        ({"row": 48, "has": 0}, 400),
        ({"row": 48}, 400),
        ([], 400),
    ],
)
def test_wrong_labels_are_refused_and_nothing_is_written(site, scored, said, status: int) -> None:
    assert len(scored.data) == 48
    assert site.post("/review/label", json=said).status_code == status
    assert not site.corrections.exists()
    assert site.get("/photo/50").status_code == site.get("/labels/50").status_code == 404


def test_they_are_in_the_training_part_and_all_else_goes_on(
    run: Path, scored: ScoredRun, suggestions: Path, tmp_path: Path
) -> None:
    data, names = Path(str(scored.config.data)), scored.data.class_names
    to_label = tables.read(suggestions, names)
    fixed = tmp_path / "c.csv"
    with client_of(scored, fixed, unlabelled=to_label) as site:
        for one in range(2):
            site.post("/review/label", json={"row": len(scored.data) + one, "has": [one]})
    images = [str(suggestions.parent / f"new{number}.jpg") for number in (70, 71)]
    checked = grigri_fast.check(data, corrections=fixed, threads=1)
    assert checked.data.names[-2:] == images
    assert checked.data.targets_NC[-2:].tolist() == np.eye(3)[:2].tolist()
    assert "2 photographs of c.csv are added to the training part" in checked.data.notes[-1]

    again = train(data, out=tmp_path / "runs", corrections=fixed)
    old, new = (split.names(folder / "split.json") for folder in (run, again))
    assert new["train"] == [*old["train"], *images] and new["val"] == old["val"]
    score = grigri_fast.evaluate(again, threads=1, device="cpu")
    value = 1 - int(score.targets_NC[0, 0])
    (tmp_path / "one.csv").write_text(
        f"image,class,value\n{score.paths[0].name},{names[0]},{value}\n"
    )
    other = grigri_fast.evaluate(again, corrections=tmp_path / "one.csv", threads=1, device="cpu")
    assert np.argwhere(other.targets_NC != score.targets_NC).tolist() == [[0, 0]]
    without = grigri_fast.evaluate(again, data=data, part="val", threads=1, device="cpu")
    assert np.array_equal(score.probabilities_NC, without.probabilities_NC)  # the same images

    compute = Compute.resolve(device="cpu", threads=1)
    served = ScoredRun.of(again, "last", compute, 10_000_000)
    assert len(served.data) == 48 and len(served.predictions.rows_N) == len(old["val"])
    with client_of(served, fixed, unlabelled=to_label) as site:
        state = site.get("/review/state").json()
    assert state["decisions"] == [[48, ALL, "1"], [49, ALL, "1"]] and state["num_added"] == 2


@pytest.mark.parametrize(
    ("header", "cells", "says"),
    [
        ("image,labels", "x.jpg,cat", "has no column 'score'"),
        ("image,labels,score,p(cat),p(dog)", "x.jpg,cat,0,0,0", rf"has no column .*{NASTY[1:7]}"),
        ("image,labels,score,{p}", "x.jpg,cat,0,0,0,much", "line 2: a score or probability is no"),
        (
            "image,labels,score,{p}",
            "/no/x.jpg,cat,0,0,0,0",
            "none of its photographs is there; the",
        ),
    ],
)
def test_a_table_of_something_else_is_one_line(
    cli, run: Path, tmp_path: Path, header: str, cells: str, says: str
) -> None:
    file = tmp_path / "s.csv"
    names = [*CLASSES[:2], NASTY]
    header = header.format(p=",".join(f"p({name})" for name in names))
    file.write_text(f"{header}\n{cells}\n")
    with pytest.raises(GrigriError, match=says):
        tables.read(file, names)
    code, _, err = cli("serve", run, "--suggestions", file)  # before anything is scored
    assert code == 1 and err.count("\n") == 1 and err.startswith(f"error: --suggestions {file}")


def test_a_table_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for wrong in (tmp_path / "folder", tmp_path / "nothing"):
        with pytest.raises(GrigriError, match=f"^--suggestions {wrong}.*: no such file$"):
            tables.read(wrong, ["cat"])
