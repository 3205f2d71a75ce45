"""Planted label errors are found, and what is in order is not."""

from dataclasses import replace

import numpy as np
import pytest
from small_set import labelled

from grigri_fast.curation import label_issues
from grigri_fast.curation.label_issues import Predictions


def test_planted_label_errors_are_the_first_that_are_named() -> None:
    rng = np.random.default_rng(0)
    truth_NC = rng.random((500, 3)) < [0.4, 0.15, 0.05]
    logits_NC = np.where(truth_NC, 2.0, -3.0) + rng.normal(0, 0.7, truth_NC.shape)
    given_NC = truth_NC.copy()
    planted = [(3, 0), (50, 0), (77, 1), (120, 1), (200, 0), (301, 2), (402, 2)]
    for row, c in planted:
        given_NC[row, c] ^= True
        # Surer than it usually is of such an image, or confident learning says nothing.
        logits_NC[row, c] = 3 if truth_NC[row, c] else -4
    rows_N = np.arange(500)[::-1]  # the order of the predictions is their own
    predictions = Predictions(rows_N, 1 / (1 + np.exp(-logits_NC[rows_N])), "made up")
    issues = label_issues.find(labelled(given_NC), predictions)
    assert {(i.row, i.c) for i in issues[:7]} == set(planted)
    assert len(issues) < 12
    assert [i.score for i in issues] == sorted(i.score for i in issues)
    for issue in issues:
        assert issue.given == given_NC[issue.row, issue.c]
        logit = logits_NC[issue.row, issue.c]
        assert issue.probability == pytest.approx(1 / (1 + np.exp(-logit)))


def test_only_images_that_were_asked_about_are_named() -> None:
    targets_NC = np.zeros((40, 1), dtype=bool)
    targets_NC[::2] = True
    probabilities_NC = np.where(targets_NC, 0.9, 0.1)
    probabilities_NC[[4, 30]] = 0.05
    rows_N = np.arange(20)
    issues = label_issues.find(labelled(targets_NC), Predictions(rows_N, probabilities_NC[:20], ""))
    assert [i.row for i in issues] == [4]


def test_a_class_that_all_or_none_have_says_nothing() -> None:
    targets_NC = np.ones((30, 2), dtype=bool)
    targets_NC[:, 1] = False
    predictions = Predictions(np.arange(30), np.full((30, 2), 0.5), "")
    assert label_issues.find(labelled(targets_NC), predictions) == []


def test_certain_predictions_are_no_obstacle() -> None:
    targets_NC = np.arange(40)[:, None] % 2 == 0
    probabilities_NC = targets_NC.astype(float)
    probabilities_NC[6] = 0.0
    issues = label_issues.find(
        labelled(targets_NC), Predictions(np.arange(40), probabilities_NC, "")
    )
    assert [i.row for i in issues] == [6]


def test_labels_that_are_not_known_are_no_issues() -> None:
    targets_NC = np.zeros((40, 2), dtype=bool)
    targets_NC[::2] = True
    probabilities_NC = np.where(targets_NC, 0.9, 0.1)
    probabilities_NC[[4, 30]] = 0.05
    unknown_NC = np.zeros((40, 2), dtype=bool)
    unknown_NC[30, 0] = unknown_NC[4, 1] = True
    data = replace(labelled(targets_NC & ~unknown_NC), unknown_NC=unknown_NC)
    issues = label_issues.find(data, Predictions(np.arange(40), probabilities_NC, ""))
    assert {(i.row, i.c) for i in issues} == {(4, 0), (30, 1)}
