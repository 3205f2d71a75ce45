"""Which images a run trains and validates on, seen through the real command."""

import pytest
from small_runs import (
    SMALL,
    fit,
    parts,
    results,
    same,
)
from small_set import write_image


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
