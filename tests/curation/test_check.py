"""The command: planted near-duplicates and label errors are found, and what is in order is not."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import Page, browse, needed_width
from PIL import Image
from small_set import labelled

from grigri_fast.curation import check, deep_check, findings, label_issues
from grigri_fast.data import dataset, demo, split
from grigri_fast.errors import GrigriError, UsageError

# What is done to a copy: (first image, its copy).
COPIES = {"re-encoded": (3, 61), "resized": (8, 62), "brighter": (15, 63), "same": (22, 64)}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Return 60 different scenes, and copies of four of them that carry no label."""
    folder = tmp_path_factory.mktemp("clean") / "scenes"
    demo.demo(folder, num_images=60, seed=1)
    images = folder / "images"

    def path(number: int) -> Path:
        return images / f"im{number}.jpg"

    for what, (first, copy) in COPIES.items():
        with Image.open(path(first)) as image:
            if what == "same":
                shutil.copy(path(first), path(copy))
            elif what == "re-encoded":
                image.save(path(copy), quality=40)
            elif what == "resized":
                image.resize((image.width * 9 // 10, image.height * 9 // 10)).save(path(copy))
            else:
                image.point(lambda value: min(255, value * 1.15)).save(path(copy))
    return folder


def pairs_in(path: Path) -> list[tuple[int, int]]:
    def number(name: str) -> int:
        return int(name.removeprefix("im").removesuffix(".jpg"))

    rows = csv.DictReader(io.StringIO(path.read_text()))
    return [(number(row["first"]), number(row["second"])) for row in rows]


# ------------------------------------------------------------------------------ near-duplicates


def test_planted_near_duplicates_are_found_and_nothing_else(cli, scenes, tmp_path) -> None:
    code, out, err = cli(
        *("data", "check", scenes, "--deep", "--threads=1", "--out", tmp_path / "out")
    )
    assert code == 0, err
    assert sorted(pairs_in(tmp_path / "out" / findings.NEAR)) == sorted(COPIES.values())
    assert "4 near-duplicates\n" in out and "im22.jpg = im64.jpg (0 of 64 bits)" in out
    assert "labels were not checked: --run RUN or --folds K" in out
    assert not (tmp_path / "out" / findings.ISSUES).exists()
    page = Page((tmp_path / "out" / findings.GALLERY).read_text())
    assert len(page.all("img")) == 8 and "no split given" in page.text


def test_pairs_across_the_split_come_first_and_are_marked(cli, scenes, tmp_path) -> None:
    data = dataset.load(scenes)
    names = np.array(data.names)
    is_val = np.isin(names, ["im3.jpg", "im61.jpg", "im63.jpg", "im40.jpg"])
    parts = split.Split({"train": np.flatnonzero(~is_val), "val": np.flatnonzero(is_val)})
    (tmp_path / "split.json").write_text(split.to_json(parts, data))
    code, out, err = cli(
        *("data", "check", scenes, "--deep", "--threads=1", "--split", tmp_path / "split.json"),
        *("--out", tmp_path / "out"),
    )
    assert code == 0, err
    assert "4 near-duplicates, 1 of them across the split" in out
    with (tmp_path / "out" / findings.NEAR).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["across_the_split"] for row in rows] == ["yes", "no", "no", "no"]
    assert (rows[0]["part_of_first"], rows[0]["part_of_second"]) == ("train", "val")
    assert pairs_in(tmp_path / "out" / findings.NEAR)[0] == COPIES["brighter"]
    row = next(row for row in rows if row["first"] == "im22.jpg")
    given = {c for c in data.class_names if "22\n" in labels_text(scenes, c)}
    assert set(filter(None, row["labels_of_first"].split("|"))) == given
    assert row["labels_of_second"] == "" and row["same_labels"] == ("no" if given else "yes")


def labels_text(folder: Path, name: str) -> str:
    return "\n" + (folder / "annotations" / f"{name}.txt").read_text()


# --------------------------------------------------------------------------- models that judge


@pytest.fixture
def squares(tmp_path: Path) -> tuple[Path, set[tuple[str, str]]]:
    """Return 120 images that are red or blue, mostly, and which of their labels are wrong."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "squares"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    wrong = {(f"im{n}.jpg", "red") for n in (5, 40, 88)} | {("im17.jpg", "blue")}
    having: dict[str, list[int]] = {"red": [], "blue": []}
    for n in range(1, 121):
        has = {"red": n % 2 == 0, "blue": n % 3 == 0}
        pixels = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        pixels[..., 0] += 180 * np.uint8(has["red"])
        pixels[..., 2] += 180 * np.uint8(has["blue"])
        Image.fromarray(pixels).save(folder / "images" / f"im{n}.jpg", quality=95)
        for name in having:
            if has[name] != ((f"im{n}.jpg", name) in wrong):
                having[name].append(n)
    for name, numbers in having.items():
        text = "".join(f"{n}\n" for n in numbers)
        (folder / "annotations" / f"{name}.txt").write_text(text)
    return folder, wrong


FOLDS = ("--deep", "--folds=2", "--epochs=8", "--size=16", "--threads=1")


@pytest.mark.slow
def test_folds_find_planted_label_errors_and_are_not_trained_again(
    cli, squares, tmp_path: Path, monkeypatch
) -> None:
    folder, wrong = squares
    out_folder = tmp_path / "out"
    code, out, err = cli("data", "check", folder, *FOLDS, "--out", out_folder)
    assert code == 0, err
    assert "by 120 images, each by one of 2 models" in out
    with (out_folder / findings.ISSUES).open() as file:
        rows = list(csv.DictReader(file))
    # Models that were trained for a moment do not find all of them; by chance it would be none.
    assert len({(r["image"], r["class"]) for r in rows[:4]} & wrong) >= 2
    assert rows[0].keys() == {"image", "class", "given", "probability", "score"}
    assert sorted(p.name for p in out_folder.iterdir()) == sorted(
        [
            findings.NEAR,
            findings.ISSUES,
            findings.GALLERY,
            deep_check.SETTINGS,
            "fold-1.csv",
            "fold-2.csv",
        ]
    )
    seen = [list(csv.DictReader((out_folder / f"fold-{k}.csv").open())) for k in (1, 2)]
    names = [row["image"] for rows in seen for row in rows]
    assert len(names) == 120 == len(set(names))  # each image is predicted once

    def fail(*args: object, **more: object) -> None:
        raise AssertionError("trained again")

    before = (out_folder / findings.ISSUES).read_text()
    monkeypatch.setattr(label_issues.trainer, "run", fail)
    code, _, err = cli("data", "check", folder, *FOLDS, "--out", out_folder)
    assert code == 0, err
    assert (out_folder / findings.ISSUES).read_text() == before
    code, _, err = cli(
        *("data", "check", folder, *FOLDS[:2], "--epochs=3", *FOLDS[3:], "--out", out_folder)
    )
    assert code == 1 and "its folds were made with epochs 8, not 3" in err
    (folder / "annotations" / "red.txt").write_text("1\n2\n3\n4\n")
    code, _, err = cli("data", "check", folder, *FOLDS, "--out", out_folder)
    assert code == 1 and "its folds were made with data" in err


@pytest.mark.slow
def test_an_interrupted_check_goes_on(cli, squares, tmp_path: Path, monkeypatch) -> None:
    folder, _ = squares
    args = ("data", "check", folder, "--deep", "--folds=2", "--epochs=1", "--size=16")
    args = (*args, "--threads=1", "--out", tmp_path / "out")
    trained = []
    run = label_issues.trainer.run

    def stop_at_second(config, *more):
        trained.append(config.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return run(config, *more)

    monkeypatch.setattr(label_issues.trainer, "run", stop_at_second)
    code, _, err = cli(*args)
    assert code == 130 and "the same command goes on" in err
    code, _, err = cli(*args)
    assert code == 0, err
    assert trained == ["fold-1", "fold-2", "fold-2"]
    left = sorted(p.name for p in (tmp_path / "out").glob("fold-*"))
    assert left == ["fold-1.csv", "fold-2.csv"]


@pytest.mark.slow
def test_a_run_is_asked_about_its_validation_part_alone(cli, squares, tmp_path: Path) -> None:
    folder, _ = squares
    code, _, err = cli(
        *("train", folder, "--arch=grigri", "--weights=none", "--size=16", "--epochs=1"),
        *("--threads=1", "--compile=off", "--name=r", "--out", tmp_path / "runs"),
    )
    assert code == 0, err
    run = tmp_path / "runs" / "r"
    code, out, err = cli(
        *("data", "check", folder, "--deep", "--threads=1", "--run", run, "--out", tmp_path / "out")
    )
    assert code == 0, err
    assert f"by 24 images of the validation part of {run}" in out and "across the split" in out
    val = set(json.loads((run / "split.json").read_text())["parts"]["val"])
    with (tmp_path / "out" / findings.ISSUES).open() as file:
        assert {row["image"] for row in csv.DictReader(file)} <= val
    code, _, err = cli(
        *(
            "data",
            "check",
            folder,
            "--deep",
            "--threads=1",
            "--run",
            folder,
            "--out",
            tmp_path / "o",
        )
    )
    assert code == 1 and "not a run folder" in err


def test_folds_share_out_the_images_evenly() -> None:
    rng = np.random.default_rng(0)
    data = labelled(rng.random((103, 2)) < 0.3)
    folds = split.folds(data, 4)
    assert sorted(np.concatenate(folds).tolist()) == list(range(103))
    assert all(abs(len(fold) - 103 / 4) < 3 for fold in folds)
    shares = [data.targets_NC[fold].mean(0) for fold in folds]
    assert np.ptp(shares, axis=0).max() < 0.1
    with pytest.raises(GrigriError, match="too few images for 60 folds"):
        split.folds(data, 60)


# ----------------------------------------------------------------------------------- wrong use


@pytest.mark.parametrize(
    "args, says",
    [
        (("--folds=2",), "--folds goes with --deep"),
        (("--out=x",), "--out goes with --deep"),
        (("--distance=3",), "--distance goes with --deep"),
        (("--deep", "--epochs=2"), "--epochs goes with --folds"),
        (("--deep", "--run=x", "--size=32"), "--size goes with --folds"),
        (("--deep", "--run=x", "--folds=2"), "leave one out"),
        (("--deep", "--run=x", "--split=y"), "leave --split out"),
        (("--deep", "--folds=1"), "--folds"),
    ],
)
def test_options_that_would_be_ignored_are_errors(cli, scenes, args, says) -> None:
    code, out, err = cli("data", "check", scenes, *args)
    assert code == 2 and says in err and not out


def test_a_single_fold_is_refused(scenes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--folds must be at least 2, not 1"):
        check.check(scenes, deep=True, folds=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(cli, scenes, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = cli("data", "check", scenes, "--deep", "--threads=1", "--out", tmp_path)
    assert code == 1 and "holds something else" in err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_without_the_libraries_it_says_what_to_install(cli, scenes, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    code, out, err = cli("data", "check", scenes, "--deep")
    assert code == 1 and not out
    assert err.count("\n") == 1 and "pip install 'grigri-fast[clean]'" in err


def test_the_function_takes_the_options_of_the_command(scenes, tmp_path: Path) -> None:
    shown = []
    checked = check.check(
        scenes, deep=True, threads=1, out=tmp_path / "out", on_summary=lambda *it: shown.append(it)
    )
    assert checked.findings.out == tmp_path / "out" and len(checked.findings.pairs) == 4
    assert checked.findings.issues is None and shown == [(checked.data, checked.summary)]
    assert check.check(scenes, threads=1).findings is None
    with pytest.raises(UsageError, match="--folds goes with --deep"):
        check.check(scenes, folds=2)


# --------------------------------------------------------------------------------- the gallery


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_the_gallery_opens_in_a_browser(cli, scenes, tmp_path: Path) -> None:
    code, _, err = cli(
        *("data", "check", scenes, "--deep", "--threads=1", "--out", tmp_path / "out")
    )
    assert code == 0, err
    page, profile = tmp_path / "out" / findings.GALLERY, tmp_path / "profile"
    document, said = browse(page, profile, "light", 1280)
    assert not said
    assert "Near-duplicates" in document and document.count("data:image/jpeg") == 8
    assert needed_width(page, profile, 390) == 390


@pytest.mark.slow
def test_plain_data_commands_do_not_import_pytorch(photos_once: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from grigri_fast.cli.main import main\n"
        f"codes = main(['data', 'check', {str(photos_once)!r}]),"
        f" main(['data', 'split', {str(photos_once)!r}, '--out', 'split.json'])\n"
        "heavy = {'torch', 'torchvision', 'timm', 'matplotlib', 'cv2'} & {*sys.modules}\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
