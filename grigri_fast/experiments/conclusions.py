"""Do the report's conclusions hold? Each is judged by the rows that it was drawn from.

A verdict rests on a difference of two scores and its 95 % interval, of the paired bootstrap: the
rows' last models judge the same photographs, in each replicate the same drawing of them. It says
how the difference would vary over other photographs, not over other seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ..evaluation import bootstrap, thresholds
from ..evaluation.bootstrap import Interval, Replicated
from .report_2020 import BASE
from .reproduction import RowResult
from .row_predictions import Predictions, on_the_same

Results = dict[str, RowResult]

# Fourteen thresholds that are better by less are not worth having: two runs that differ in their
# seed alone may differ by as much (assumed).
MARGIN = 0.01
_SEEDS = {"val": 0, "train": 1}  # of the replicates: the two parts are drawn independently


class Verdict(StrEnum):
    """Whether a conclusion holds."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "cannot be told"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Conclusion:
    """A conclusion of the report, judged.

    Attributes:
        claim: what the report concludes.
        of: what ``difference`` is a difference of.
        verdict: whether it holds.
        sentence: the figures, or why there are none.
        difference: with its interval; None without one.
    """

    claim: str
    of: str
    verdict: Verdict
    sentence: str
    difference: Interval | None


@dataclass(frozen=True)
class _Claim:
    """A conclusion of the report and how it is judged.

    Attributes:
        text, of: as in :class:`Conclusion`.
        needs: by row, the parts of which its predictions are needed.
        judge: gets all rows, those needed with a result.
        of_pretrained: whether it says nothing about networks that are trained from scratch.
    """

    text: str
    of: str
    needs: dict[str, tuple[str, ...]]
    judge: Callable[[Results], tuple[Verdict, str, Interval]]
    of_pretrained: bool = False


def conclude(results: Results, weights: str) -> list[Conclusion]:
    """Return the report's conclusions, judged by what the rows have left behind.

    Args:
        results: by name, every row's.
        weights: ``none`` if the networks were trained from scratch.
    """
    return [_conclusion(claim, results, weights) for claim in _CLAIMS]


def parts_needed(name: str) -> tuple[str, ...]:
    """Return the parts of which a row's predictions are needed: ``val``, and perhaps ``train``."""
    needed = {part for claim in _CLAIMS for part in claim.needs.get(name, ())}
    return tuple(sorted(needed, reverse=True))


def _conclusion(claim: _Claim, results: Results, weights: str) -> Conclusion:
    for name, parts in claim.needs.items():
        result = results[name]
        why = result.why
        if not why and not set(parts) <= set(result.predictions):
            why = "its predictions are not stored; the same command computes them"
        if why:
            reason = f"It needs `{name}`: {why}."
            return Conclusion(claim.text, claim.of, Verdict.NOT_RUN, reason, None)
    if claim.of_pretrained and weights == "none":
        reason = (
            "It is about pretrained networks; these were trained from scratch (`--weights none`)."
        )
        return Conclusion(claim.text, claim.of, Verdict.OPEN, reason, None)
    return Conclusion(claim.text, claim.of, *claim.judge(results))


# ------------------------------------------------------------------------- the conclusions


def _bce_learns_faster(results: Results) -> tuple[Verdict, str, Interval]:
    bce, mse = (results[name] for name in ("bce", "mse"))
    a, b = on_the_same([bce.predictions["val"], mse.predictions["val"]])
    f1_bce, f1_mse = _micro_f1(a), _micro_f1(b)
    difference = (f1_bce - f1_mse).interval()
    sentence = (
        f"After {_epochs(bce)}, micro-F1 at 0.5 is {f1_bce.value:.4f} with BCE and"
        f" {f1_mse.value:.4f} with MSE; {_in_map(a, b)}."
    )
    goal = mse.history[-1]["val_micro_f1"]
    passed = [row["epoch"] for row in bce.history if row["val_micro_f1"] >= goal]
    if passed:
        sentence += f" BCE reached MSE's last score in epoch {passed[0]:.0f}."
    return _is_more(difference), sentence, difference


def _adam_overfits(results: Results) -> tuple[Verdict, str, Interval]:
    adam, sgd = (results[name] for name in ("adam", "bce"))
    gap_adam, gap_sgd = _gaps(adam, sgd)
    difference = (gap_adam - gap_sgd).interval()
    sentence = (
        f"Micro-F1 on training photographs is above that on validation photographs by"
        f" {signed(gap_adam.interval())} with Adam and by {signed(gap_sgd.interval())} with SGD."
        f" The validation loss {_course(adam)} with Adam, and {_course(sgd)} with SGD."
    )
    return _is_more(difference), sentence, difference


def _augmentation_closes_the_gap(results: Results) -> tuple[Verdict, str, Interval]:
    """Judge whether more than half of the gap is gone: less would not be called closing it."""
    plain, augmented = (results[name] for name in ("onecycle", "augmentation"))
    gap_plain, gap_augmented = _gaps(plain, augmented)
    closed = gap_plain - gap_augmented
    difference = closed.interval()
    sentence = (
        f"Micro-F1 on training photographs, as they are, is above that on validation photographs"
        f" by {signed(gap_plain.interval())} without augmentation and by"
        f" {signed(gap_augmented.interval())} with it. In the curves, whose training score is of"
        f" photographs as they were trained on, the gaps are {_gap_of_curves(plain):+.4f} and"
        f" {_gap_of_curves(augmented):+.4f}."
    )
    if gap_plain.interval().low <= 0:
        return Verdict.OPEN, f"There is no gap to close. {sentence}", difference
    sentence += f" {closed.value / gap_plain.value:.0%} of the gap is closed."
    return _is_more((closed - gap_augmented).interval()), sentence, difference


def _fine_tuning_beats_frozen(results: Results) -> tuple[Verdict, str, Interval]:
    both = [results[name].predictions["val"] for name in (BASE, "frozen")]
    tuned, frozen = on_the_same(both)
    f1_tuned, f1_frozen = _micro_f1(tuned), _micro_f1(frozen)
    difference = (f1_tuned - f1_frozen).interval()
    sentence = (
        f"After {_epochs(results[BASE])}, micro-F1 at 0.5 is {f1_tuned.value:.4f} fine-tuned and"
        f" {f1_frozen.value:.4f} with a frozen backbone; {_in_map(tuned, frozen)}."
    )
    return _is_more(difference), sentence, difference


def _one_threshold_is_enough(results: Results) -> tuple[Verdict, str, Interval]:
    """Judge whether a threshold per class is better by less than a margin."""
    predictions = results[BASE].predictions["val"]
    scores_NC, targets_NC = predictions.probabilities_NC, predictions.targets_NC
    found = {}
    for tune in (thresholds.best_f1_threshold, thresholds.best_f1_thresholds):
        honest_NC = thresholds.cross_fit(tune, scores_NC, targets_NC)
        flattering_NC = scores_NC >= tune(scores_NC, targets_NC)
        found[tune] = [_micro_f1(predictions, p_NC) for p_NC in (honest_NC, flattering_NC)]
    (one, one_flatters), (each, each_flatters) = found.values()
    difference = (each - one).interval()
    num_classes = targets_NC.shape[1]
    sentence = (
        f"Cross-fitted micro-F1 is {one.value:.4f} with one threshold and {each.value:.4f} with"
        f" {num_classes}; on the images that they are tuned on, {one_flatters.value:.4f} and"
        f" {each_flatters.value:.4f}. As good means that {num_classes} are better by less than"
        f" {MARGIN:g}, by the whole interval."
    )
    if difference.high <= MARGIN:
        return Verdict.HOLDS, sentence, difference
    return Verdict.FAILS if difference.low > 0 else Verdict.OPEN, sentence, difference


_VAL, _BOTH = ("val",), ("val", "train")
_CLAIMS = (
    _Claim(
        "BCE learns faster than MSE",
        "micro-F1, BCE less MSE",
        {"bce": _VAL, "mse": _VAL},
        _bce_learns_faster,
    ),
    _Claim(
        "Adam overfits, more than SGD",
        "the gap, Adam's less SGD's",
        {"adam": _BOTH, "bce": _BOTH},
        _adam_overfits,
    ),
    _Claim(
        "Augmentation closes the gap",
        "the gap, without less with",
        {"onecycle": _BOTH, "augmentation": _BOTH},
        _augmentation_closes_the_gap,
    ),
    _Claim(
        "Fine-tuning beats the frozen backbone",
        "micro-F1, fine-tuned less frozen",
        {BASE: _VAL, "frozen": _VAL},
        _fine_tuning_beats_frozen,
        of_pretrained=True,
    ),
    _Claim(
        "One threshold is as good as fourteen",
        "micro-F1, fourteen less one",
        {BASE: _VAL},
        _one_threshold_is_enough,
    ),
)


# ------------------------------------------------------------------------------- figures


def signed(difference: Interval) -> str:
    """Return +0.0576 (+0.045 to +0.070)."""
    return f"{difference.value:+.4f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _is_more(difference: Interval) -> Verdict:
    """Return whether a difference is above 0, by its whole interval."""
    if difference.low > 0:
        return Verdict.HOLDS
    return Verdict.FAILS if difference.high < 0 else Verdict.OPEN


def _micro_f1(
    predictions: Predictions, predicted_NC: NDArray[np.bool_] | None = None, part: str = "val"
) -> Replicated:
    """Return micro-F1 over the replicates of a part, by default at a threshold of 0.5."""
    if predicted_NC is None:
        predicted_NC = predictions.probabilities_NC >= 0.5
    weights_RN = bootstrap.draw_weights(len(predicted_NC), seed=_SEEDS[part])
    return bootstrap.replicated_micro_f1(predicted_NC, predictions.targets_NC, weights_RN)


def _in_map(a: Predictions, b: Predictions) -> str:
    """Return in words two rows' mAP, which depends on no threshold, and its difference."""
    weights_RN = bootstrap.draw_weights(len(a.rows_N), seed=_SEEDS["val"])
    of_a, of_b = (
        bootstrap.replicated_map(one.probabilities_NC, one.targets_NC, weights_RN) for one in (a, b)
    )
    scores = f"{of_a.value:.4f} and {of_b.value:.4f}: {signed((of_a - of_b).interval())}"
    return f"in mAP, which depends on no threshold, {scores}"


def _gaps(a: RowResult, b: RowResult) -> list[Replicated]:
    """Return by how much two rows' micro-F1 on training photographs is above validation's."""
    train, val = (
        [
            _micro_f1(one, part=part)
            for one in on_the_same([a.predictions[part], b.predictions[part]])
        ]
        for part in ("train", "val")
    )
    return [t - v for t, v in zip(train, val, strict=True)]


def _gap_of_curves(result: RowResult) -> float:
    last = result.history[-1]
    return last["train_micro_f1"] - last["val_micro_f1"]


def _course(result: RowResult) -> str:
    """Return in words where the validation loss was lowest, and where it ended."""
    lowest = min(result.history, key=lambda row: row["val_loss"])
    last = result.history[-1]
    if lowest is last:
        return f"was lowest at the end ({last['val_loss']:.4f})"
    return (
        f"went up from {lowest['val_loss']:.4f} in epoch {lowest['epoch']:.0f} to"
        f" {last['val_loss']:.4f}"
    )


def _epochs(result: RowResult) -> str:
    number = len(result.history)
    return f"{number} epoch{'' if number == 1 else 's'}"
