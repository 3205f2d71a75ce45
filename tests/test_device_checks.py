"""The checks of tests/gpu on a CPU, where a name or a claim of theirs that is wrong is found."""

from pathlib import Path

import device_checks as checks
import pytest

CPU = checks.CPU


def test_decoding_equals_the_cpu(tmp_path: Path) -> None:
    checks.check_decoding(CPU, tmp_path, 12)


def test_what_pillow_decodes(tmp_path: Path) -> None:
    checks.check_what_pillow_decodes(CPU, tmp_path)


def test_warping_equals_opencv(tmp_path: Path) -> None:
    checks.check_warping(CPU, tmp_path)


def test_rows_and_images_stay_together(tmp_path: Path) -> None:
    checks.check_rows_and_images(CPU, tmp_path, 2, 8)


def test_the_cache_gives_the_same_pixels(tmp_path: Path) -> None:
    checks.check_cache(CPU, tmp_path, "ram")


def test_a_bad_file_costs_itself_alone(tmp_path: Path) -> None:
    checks.check_bad_files(CPU, tmp_path)


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", checks.OPTIMIZERS)
def test_graphs_make_the_steps_that_eager_makes(optimizer: str, amp: str) -> None:
    checks.check_step(CPU, amp, optimizer, 0.0, checks.small_network(), 16)


def test_a_network_that_cannot_be_captured() -> None:
    checks.check_a_network_that_cannot_be_captured(CPU)


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_training_steps_under_amp_lower_the_loss(amp: str) -> None:
    checks.check_amp(CPU, amp, "shufflenet_v2_x0_5")


def test_what_is_drawn_is_drawn_again() -> None:
    checks.check_what_is_drawn(CPU)


def test_memory_that_runs_out_is_known_as_such() -> None:
    checks.check_out_of_memory(CPU)


def test_a_cap_ends_with_its_run() -> None:
    checks.check_cap(CPU)


@pytest.mark.slow
def test_two_trainings_are_equal(cli, photos_once: Path, tmp_path: Path) -> None:
    checks.check_two_trainings(CPU, cli, photos_once, tmp_path, "shufflenet_v2_x0_5", 0.0)


@pytest.mark.slow
def test_a_memory_limit_holds(cli, photos_once: Path, tmp_path: Path) -> None:
    words = ["--arch=shufflenet_v2_x0_5", "--size=32", "--batch-size=8", "--epochs=1"]
    assert checks.check_memory_limit(CPU, cli, photos_once, tmp_path, "6GiB", *words)
