"""What the report of 2020 ran and measured: its experiments as rows of data.

Nothing here computes. ``reproduce`` runs the rows, ``reproduce_report`` compares the scores.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import GrigriError

EPOCHS = 20  # given for the first experiment, assumed for the others
VAL = 0.2  # share of the images for validation
THRESHOLD = 0.375  # the best one for all classes
NUM_SIMPLE_PARAMETERS = 11_098_110  # of SimpleConvNet
FULL_LABELS = "labels_20000.csv"  # labels of all of its images; not all images are published

CLASS_NAMES = [
    *("baby", "bird", "car", "clouds", "dog", "female", "flower"),
    *("male", "night", "people", "portrait", "river", "sea", "tree"),
]
# Class frequencies after its stratification, as printed there.
FREQUENCIES = {
    "train": [
        *(0.0046875, 0.018, 0.0159375, 0.05475, 0.022375, 0.161375, 0.0380625),
        *(0.1489375, 0.029875, 0.320125, 0.1560625, 0.006, 0.008625, 0.02625),
    ],
    "val": [
        *(0.005, 0.018, 0.016, 0.05475, 0.0225, 0.16125, 0.038),
        *(0.149, 0.03, 0.32025, 0.156, 0.006, 0.00875, 0.02625),
    ],
}


@dataclass(frozen=True)
class Row:
    """One experiment.

    Attributes:
        name: of its folder, and what ``--only`` takes.
        title: a few words for tables.
        reported: ``micro_f1`` and ``subset_accuracy`` in the report; empty where they are not
            known.
        options: of its :class:`TrainConfig`, with the report's size in pixels. Every option that
            matters is set, so that a changed default does not change the experiment.
        kind: how it is run.
        threshold: ``auto`` or ``per-class``, for a row of kind ``thresholds``.
    """

    name: str
    title: str
    reported: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    kind: Literal["data", "train", "untrained", "thresholds"] = "train"
    threshold: str = "auto"


# What titles call the report's pretrained networks.
_PRETRAINED = ("ResNet18", "ResNet34", "Wide ResNet-50-2")


def _scores(micro_f1: float, subset_accuracy: float) -> dict[str, float]:
    return {"micro_f1": micro_f1, "subset_accuracy": subset_accuracy}


# The report does not give the weight decay of the first experiments: none is assumed.
_CONSTANT = {
    **{"recipe": "report", "arch": "resnet18", "size": 128, "batch_size": 32},
    **{"probe": False, "freeze_backbone": False, "freeze_stages": 0, "layer_decay": 1.0},
    **{"augment": False, "loss": "bce", "optimizer": "sgd"},
    **{"schedule": "constant", "lr": 0.01, "momentum": 0.9, "momentum_min": None},
    "weight_decay": 0.0,
}
_ONECYCLE = _CONSTANT | {
    **{"schedule": "onecycle", "lr": 0.01, "momentum": 0.95, "momentum_min": 0.85},
    "weight_decay": 1e-3,
}
_FINAL = _ONECYCLE | {"augment": True, "weight_decay": 1e-4}
_RESNET34 = _FINAL | {"arch": "resnet34", "size": 224}

_MSE = _CONSTANT | {"loss": "mse"}
_ADAM = _CONSTANT | {"optimizer": "adam", "lr": 1e-3}
_AMSGRAD = _ADAM | {"optimizer": "amsgrad"}
_RMSPROP = _ADAM | {"optimizer": "rmsprop", "momentum": 0.0}
_AUGMENTED = _ONECYCLE | {"augment": True}
_WIDE = _FINAL | {"arch": "wide_resnet50_2"}
_FROZEN = _RESNET34 | {"freeze_backbone": True}
_SIMPLE = _FINAL | {"arch": "simple"}

BASE = "resnet34"  # the row whose thresholds are tuned
ROWS = (
    Row("data", "The data; predicting nothing", _scores(0.0, 0.4912), kind="data"),
    Row("bce", "ResNet18, BCE, SGD", _scores(0.7170, 0.6402), _CONSTANT),
    Row("mse", "ResNet18, MSE, SGD", _scores(0.6594, 0.5880), _MSE),
    Row("adam", "ResNet18, Adam", {}, _ADAM),
    Row("rmsprop", "ResNet18, RMSprop", {}, _RMSPROP),
    Row("amsgrad", "ResNet18, AMSGrad", {}, _AMSGRAD),
    Row("onecycle", "ResNet18, SGD one-cycle", {}, _ONECYCLE),
    Row("augmentation", "ResNet18, augmented, one-cycle", _scores(0.6668, 0.6218), _AUGMENTED),
    Row(BASE, "ResNet34 at 224 px, augmented, one-cycle", _scores(0.7709, 0.6913), _RESNET34),
    Row(
        "wide_resnet50_2", "Wide ResNet-50-2, augmented, one-cycle", _scores(0.7535, 0.6780), _WIDE
    ),
    Row(
        "untrained",
        "ResNet34 with an untrained head",
        _scores(0.1256, 0.0),
        _RESNET34,
        kind="untrained",
    ),
    Row("frozen", "ResNet34, backbone frozen", _scores(0.6315, 0.5920), _FROZEN),
    Row("threshold", "ResNet34, one threshold tuned", _scores(0.7870, 0.7015), kind="thresholds"),
    Row(
        "thresholds_per_class",
        "ResNet34, a threshold per class",
        _scores(0.7834, 0.7120),
        kind="thresholds",
        threshold="per-class",
    ),
    Row("simple", "SimpleConvNet from scratch", _scores(0.0, 0.4926), _SIMPLE),
)
NAMES = [row.name for row in ROWS]


def rows_with(network: str | None) -> tuple[Row, ...]:
    """Return the rows with ``network`` in the place of every pretrained network of the report.

    Names and the report's scores stay. What was a wider network at 128 px is ``network`` at that
    size. SimpleConvNet, which the report trained from scratch, stays. None: the rows as they were.
    """
    if network is None:
        return ROWS
    return tuple(_with_network(row, network) for row in ROWS)


def _with_network(row: Row, network: str) -> Row:
    title = row.title
    for theirs in _PRETRAINED:
        title = title.replace(theirs, network)
    if row.name == "wide_resnet50_2":
        title += ", at 128 px (the report: a wider network)"
    if not row.options or row.name == "simple":
        return replace(row, title=title)
    return replace(row, title=title, options=row.options | {"arch": network})


def row_named(name: str) -> Row:
    """Return the row of that name.

    Raises:
        GrigriError: if there is none.
    """
    if name not in NAMES:
        raise GrigriError(f"--only {name}: the rows are {', '.join(NAMES)}")
    return ROWS[NAMES.index(name)]
