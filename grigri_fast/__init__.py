"""grigri-fast: fine-tune a multi-label image classifier fast, and learn how good it honestly is.

The commands as functions::

    from grigri_fast import evaluate, load, predict, train

    result = train("my-photos", arch="resnet18", size=128, epochs=10)
    print(evaluate(result.folder, save=True).evaluation.honest.micro_f1)
    for prediction in predict(result.folder, "holiday"):
        print(prediction.path, prediction.labels)

Nothing heavy is imported before one of the names is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .config import TrainConfig
    from .errors import GrigriError, Interrupted
    from .evaluation.evaluator import RunEvaluation, evaluate
    from .inference.predictor import Classifier, Prediction, load, predict
    from .training.callbacks import Callback
    from .training.trainer import Result, train

_HOME = {
    "config": ("TrainConfig",),
    "errors": ("GrigriError", "Interrupted"),
    "evaluation.evaluator": ("RunEvaluation", "evaluate"),
    "inference.predictor": ("Classifier", "Prediction", "load", "predict"),
    "training.trainer": ("Result", "train"),
    "training.callbacks": ("Callback",),
}

__all__ = [
    "Callback",
    "Classifier",
    "GrigriError",
    "Interrupted",
    "Prediction",
    "Result",
    "RunEvaluation",
    "TrainConfig",
    "__version__",
    "evaluate",
    "load",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    for module, names in _HOME.items():
        if name in names:
            found = getattr(importlib.import_module(f".{module}", __name__), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
