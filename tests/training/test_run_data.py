"""Which images a run trains and validates on, seen through the real command."""

from pathlib import Path

import pytest
from small_runs import (
    SMALL,
    fit,
    parts,
    results,
    run_of,
    same,
)
from small_set import labels_of, write_image


@pytest.mark.slow
def test_validation_and_test_images_have_no_part_in_training(cli, photos, tmp_path) -> None:
    options = [*SMALL, "--epochs=2", "--test=0.2"]
    first = fit(cli, photos, tmp_path, *options)
    for part in ("val", "test"):
        for i, name in enumerate(parts(first)[part]):
            write_image(photos / "images" / name, 2 * i + 101)
    second = fit(cli, photos, tmp_path, *options)
    assert parts(first) == parts(second)
    assert same(first, second)
    for a, b in zip(results(first), results(second), strict=True):
        assert a["train_loss"] == b["train_loss"] and a["val_loss"] != b["val_loss"]


@pytest.mark.slow
def test_limit_draws_a_part_of_each_part(cli, photos, tmp_path) -> None:
    whole, ten, again, other, more = (
        fit(cli, photos, tmp_path, *SMALL, *options)
        for options in (
            [],
            ["--limit=10"],
            ["--limit=10"],
            ["--limit=10", "--seed=1"],
            ["--limit=1000"],
        )
    )
    assert {name: len(names) for name, names in parts(ten).items()} == {"train": 8, "val": 2}
    for name, names in parts(ten).items():
        assert set(names) < set(parts(whole)[name])
    assert parts(again) == parts(ten) != parts(other)
    assert parts(more) == parts(whole)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_very_few_images_train_or_are_refused_in_one_line(cli, photos, tmp_path, limit) -> None:
    # BatchNorm cannot train on one image, and that has to be said before a run folder is made.
    code, _, err = cli("train", photos, *SMALL, f"--limit={limit}", "--out", tmp_path / "runs")
    if code == 0:
        assert (
            err == "" and len(parts(tmp_path / "runs" / "photos-shufflenet_v2_x0_5")["train"]) > 1
        )
    else:
        assert code == 1 and err.startswith("error: ") and err.count("\n") == 1
        assert not (tmp_path / "runs").exists()


def table_of(photos: Path, name: str, rows: list[str]) -> Path:
    """Write a table of some of the small set's images."""
    file = photos / name
    file.write_text("\n".join(rows) + "\n")
    return file


@pytest.mark.slow
def test_a_run_uses_the_datas_own_split_and_says_so(cli, photos, tmp_path) -> None:
    part_of = ["train"] * 32 + ["valid"] * 10 + ["test"] * 4 + [""] * 2
    cells = [f"images/im{i + 1}.jpg,{'|'.join(labels_of(i))},{part_of[i]}" for i in range(48)]
    cells[1] = cells[1].replace(",train", "|owl,train")  # on this image alone
    table = table_of(photos, "labels.csv", ["file,labels,split", *cells])
    code, out, err = cli("train", table, *SMALL, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "the data come with a split: 32 train, 10 val, 4 test, 2 in no part" in out
    assert "2 images are in no part of that split and used nowhere: im" in out.replace(
        "images/", ""
    )
    assert "not in every part: " in out and "owl (not in val and test: only 1 image)" in out
    run = run_of(out)
    assert {name: len(of_part) for name, of_part in parts(run).items()} == {
        "train": 32,
        "val": 10,
        "test": 4,
    }
    stored = (run / "config.toml").read_text().splitlines()
    assert not [line for line in stored if line.startswith(("val =", "test ="))]
    again = fit(cli, table, tmp_path, "--config", run / "config.toml", "--name=again")
    assert parts(again) == parts(run)
    code, out, err = cli("train", table, *SMALL, "--out", tmp_path, "--val=0.2")
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "the data come with a split, so --val 0.2 does not go with them" in err


@pytest.mark.slow
def test_a_run_says_which_images_its_split_file_does_not_name(cli, photos, tmp_path) -> None:
    cells = [f"images/im{i + 1}.jpg,{'|'.join(labels_of(i))}" for i in range(48)]
    old = table_of(photos, "old.csv", ["file,labels", *cells[:43]])
    more = table_of(photos, "more.csv", ["file,labels", *cells])
    assert cli("data", "split", old, "--out", tmp_path / "s.json")[0] == 0
    _, out, _ = cli("train", more, *SMALL, "--out", tmp_path, "--split", tmp_path / "s.json")
    line = next(line for line in out.splitlines() if "in no part" in line)
    assert line.startswith(
        f"  5 images are in no part of split file {tmp_path / 's.json'} and used"
    )
    assert "im44.jpg, " in line and line.endswith(" and 2 more")


@pytest.mark.slow
def test_a_split_that_is_made_stores_its_shares(cli, photos, tmp_path) -> None:
    run = fit(cli, photos, tmp_path, *SMALL, "--test=0.25")
    assert {"val = 0.2", "test = 0.25"} <= set((run / "config.toml").read_text().splitlines())
