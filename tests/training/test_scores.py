"""The scores of an epoch, and of a finished run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_set import CLASSES, labelled

from grigri_fast.data import split
from grigri_fast.evaluation import metrics
from grigri_fast.runs.trained_on import TrainedOn
from grigri_fast.training import run_data, scores
from grigri_fast.training.losses import bce


def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, targets and unknown labels (40, 3)."""
    rng = np.random.default_rng(0)
    targets_NC = (rng.random((40, 3)) < 0.4).astype(np.float32)
    logits_NC = (rng.normal(size=(40, 3)) + 2 * targets_NC - 1).astype(np.float32)
    return logits_NC, targets_NC, rng.random((40, 3)) < 0.3


def test_unknown_labels_count_in_no_score_of_an_epoch() -> None:
    logits_NC, targets_NC, unknown_NC = case()
    targets_NC = targets_NC * ~unknown_NC
    found = scores.validation(logits_NC, targets_NC, unknown_NC, bce)
    flipped_NC = np.where(unknown_NC, -logits_NC, logits_NC)
    assert scores.validation(flipped_NC, targets_NC, unknown_NC, bce) == pytest.approx(found)
    known = torch.from_numpy(~unknown_NC)
    loss = bce(torch.from_numpy(logits_NC)[known], torch.from_numpy(targets_NC)[known])
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    counts = metrics.count((logits_NC >= 0) & ~unknown_NC, targets_NC)
    assert found["micro_f1"] == metrics.micro_f1(counts)


def test_a_class_without_positives_is_no_part_of_an_epochs_macro_f1() -> None:
    logits_NC, targets_NC, _ = case()
    targets_NC[:, 2] = 0
    found = scores.validation(logits_NC, targets_NC, None, bce)
    f1_C = metrics.f1(metrics.count(logits_NC >= 0, targets_NC))
    assert found["macro_f1"] == pytest.approx(f1_C[:2].mean())


def test_frequencies_are_of_the_images_whose_label_is_known() -> None:
    targets_NC = np.array([[1, 0], [0, 0], [1, 0]], dtype=np.float32)
    unknown_NC = np.array([[0, 1], [1, 1], [0, 1]], dtype=bool)
    assert run_data.frequencies(targets_NC, unknown_NC).tolist() == [1, 0]
    assert run_data.frequencies(targets_NC, None).tolist() == pytest.approx([2 / 3, 0])


@pytest.mark.parametrize(("copies", "num_images", "exposure"), [
    ([], 20, "unseen"), ([3, 7], 18, "unseen"), (range(20), 20, "seen"),
])  # fmt: skip
def test_copies_of_training_images_are_no_part_of_the_last_scores(
    copies, num_images: int, exposure: str
) -> None:
    logits_NC, targets_NC, _ = case()
    crc32_N = np.arange(40)
    crc32_N[[20 + i for i in copies]] = 5
    data = SimpleNamespace(
        val_rows=np.arange(20, 40),
        checked=SimpleNamespace(crc32_N=crc32_N),
        dataset=labelled(targets_NC.astype(bool)),
        labels=lambda rows: (targets_NC[rows], None),
    )
    data.dataset.class_names[:] = CLASSES
    trained_on = TrainedOn({}, {"train": np.arange(20), "val": np.empty(0, dtype=np.int64)})
    found = scores.final(logits_NC[20:], data, trained_on)
    assert (found.num_images, found.exposure) == (num_images, exposure)
    kept = [i for i in range(20) if exposure == "seen" or i not in copies]
    counts = metrics.count(logits_NC[20:][kept] >= 0, targets_NC[20:][kept])
    assert found.at_half.micro_f1.value == metrics.micro_f1(counts)


def test_copies_of_training_images_are_not_unseen() -> None:
    data = run_data.RunData(
        dataset=labelled(np.ones((5, 1), dtype=bool)),
        split=split.Split({"train": np.array([0, 1]), "val": np.array([2, 3, 4])}),
        checked=SimpleNamespace(crc32_N=np.array([7, 8, 9, 7, 5])),
        quarantine=SimpleNamespace(good_before=lambda rows: rows),
    )
    assert data.unseen(np.array([2, 3, 4])).tolist() == [2, 4]
    assert data.unseen(np.array([3])).tolist() == [3]
