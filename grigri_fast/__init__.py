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
    from .curation.check import Checked, check
    from .curation.suggest import suggest
    from .curation.suggestions import Suggested, Suggestion
    from .data.demo import demo
    from .data.mirflickr import FetchCallback, Fetched, fetch
    from .data.split import SplitResult, split
    from .errors import GrigriError, Interrupted
    from .evaluation.evaluator import RunEvaluation, evaluate
    from .evaluation.quantization import export
    from .experiments.callbacks import CurveCallback, ReproduceCallback, TuneCallback
    from .experiments.learning_curve import LearningCurve, learning_curve
    from .experiments.reproduce import Reproduced, reproduce
    from .experiments.trials import Tuned
    from .experiments.tuner import tune
    from .inference.exporter import Exported
    from .inference.predictor import Classifier, Prediction, load, predict
    from .profiling.benchmark import Benchmark, bench
    from .profiling.profiler import Profile, profile
    from .reporting.run_report import report
    from .runtime.environment import info
    from .serving.serve import Served, serve
    from .training.callbacks import Callback
    from .training.trainer import Result, train

_HOME = {
    "config": ("TrainConfig",),
    "curation.check": ("Checked", "check"),
    "curation.suggest": ("suggest",),
    "curation.suggestions": ("Suggested", "Suggestion"),
    "data.demo": ("demo",),
    "data.mirflickr": ("FetchCallback", "Fetched", "fetch"),
    "data.split": ("SplitResult", "split"),
    "errors": ("GrigriError", "Interrupted"),
    "evaluation.evaluator": ("RunEvaluation", "evaluate"),
    "evaluation.quantization": ("export",),
    "experiments.callbacks": ("CurveCallback", "ReproduceCallback", "TuneCallback"),
    "experiments.learning_curve": ("LearningCurve", "learning_curve"),
    "experiments.reproduce": ("Reproduced", "reproduce"),
    "experiments.trials": ("Tuned",),
    "experiments.tuner": ("tune",),
    "inference.exporter": ("Exported",),
    "inference.predictor": ("Classifier", "Prediction", "load", "predict"),
    "profiling.benchmark": ("Benchmark", "bench"),
    "profiling.profiler": ("Profile", "profile"),
    "reporting.run_report": ("report",),
    "runtime.environment": ("info",),
    "serving.serve": ("Served", "serve"),
    "training.callbacks": ("Callback",),
    "training.trainer": ("Result", "train"),
}

__all__ = ["TrainConfig", "__version__"]
__all__ += ["bench", "check", "demo", "evaluate", "export", "fetch", "info"]
__all__ += ["learning_curve", "load", "predict"]
__all__ += ["profile", "report", "reproduce", "serve", "split", "suggest", "train", "tune"]
__all__ += ["Benchmark", "Checked", "Classifier", "Exported", "Fetched", "LearningCurve"]
__all__ += ["Prediction", "Profile"]
__all__ += [
    "Reproduced",
    "Result",
    "RunEvaluation",
    "Served",
    "SplitResult",
    "Suggested",
    "Suggestion",
    "Tuned",
]
__all__ += ["Callback", "CurveCallback", "FetchCallback", "ReproduceCallback", "TuneCallback"]
__all__ += ["GrigriError", "Interrupted"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    for module, names in _HOME.items():
        if name in names:
            value = getattr(importlib.import_module(f".{module}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
