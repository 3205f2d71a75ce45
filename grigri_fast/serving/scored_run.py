"""What the site is about: a run's model, its data, and what the model says of its validation part.

Shapes: M scored images, C classes.
"""

import dataclasses
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import TrainConfig, read_toml
from ..curation import label_issues
from ..curation.label_issues import Predictions, Setting
from ..data import dataset
from ..data.dataset import Dataset
from ..errors import GrigriError
from ..inference.predictor import Classifier, Prediction
from ..reporting import photographs
from ..runs import run_folder
from ..runs.run_folder import CheckpointName
from ..runtime import files
from ..runtime.compute import Compute
from .review import precision_and_recall

_GRID = np.linspace(0, 1, 201).tolist()  # thresholds that the page offers
SHOWN_PX = 640  # longer side of a photograph on the page


def config_of(folder: Path) -> TrainConfig:
    """Return the options of a run whose data are where they were.

    Raises:
        GrigriError: if ``folder`` is no run, or its data are not there any more.
    """
    config = TrainConfig(**read_toml(folder / run_folder.CONFIG))
    if config.data is None or not Path(config.data).exists():
        raise GrigriError(f"{folder}: its data were in {config.data}, and are not there")
    return config


@dataclass(frozen=True)
class ScoredRun:
    """A run's model and data, and the model's probabilities on the validation part.

    Attributes:
        folder: of the run.
        config: of the run.
        data: the data set, with the labels that it has by itself.
        classifier: the model.
        predictions: on the validation part, without images that the model was trained on.
        max_pixels: larger images are refused.
    """

    folder: Path
    config: TrainConfig
    data: Dataset
    classifier: Classifier
    predictions: Predictions
    max_pixels: int
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of(
        cls, folder: Path, checkpoint: CheckpointName, compute: Compute, max_pixels: int
    ) -> "ScoredRun":
        """Read a run and score its validation part.

        Raises:
            GrigriError: if ``folder`` is no run, or its data are not there any more.
        """
        path = run_folder.checkpoint_path(folder, checkpoint)
        config = config_of(folder)
        source, images = str(config.data), None if config.images is None else str(config.images)
        own = dataclasses.replace(config, corrections=None)
        data = dataset.load(files.shown(source), images, **own.how_labels)
        setting = Setting(data, source, images, compute, max_pixels)
        with compute.open():
            classifier = Classifier.from_file(path, compute, max_pixels)
        if classifier.class_names != data.class_names:
            raise GrigriError(f"{folder}: its classes are not those of {data.layout}")
        predictions, _ = label_issues.predict_by_run(folder, setting, classifier)
        return cls(folder, config, data, classifier, predictions, max_pixels)

    def predict(self, content: bytes) -> Prediction:
        """Return a prediction for the bytes of an image file.

        They are checked and decoded as any other file; one request at a time.
        """
        with self._lock, tempfile.TemporaryDirectory(prefix="grigri-fast-") as folder:
            file = Path(folder, "photograph")
            file.write_bytes(content)
            (prediction,) = self.classifier.predict([file])
        return dataclasses.replace(prediction, path=None)

    def photo(self, path: Path, shown_px: int = SHOWN_PX) -> photographs.Photo:
        """Return a JPEG of an image file, or the reason why there is none.

        Its longer side has ``shown_px``.
        """
        with self._lock:
            return photographs.read(
                [path],
                [0],
                threads=self.classifier.compute.threads,
                max_pixels=self.max_pixels,
                shown_px=shown_px,
            )[0]

    def over_thresholds(self, c: int) -> dict[str, Any]:
        """Return precision and recall of a class on the validation part, by threshold.

        Raises:
            IndexError: if there is no such class.
        """
        if not 0 <= c < len(self.data.class_names):
            raise IndexError(c)
        rows_M = self.predictions.rows_N
        is_known_M = np.ones(len(rows_M), dtype=bool)
        if self.data.unknown_NC is not None:
            is_known_M = ~self.data.unknown_NC[rows_M, c]
        has_M = self.data.targets_NC[rows_M, c] > 0
        precision, recall = precision_and_recall(
            self.predictions.probabilities_NC[is_known_M, c], has_M[is_known_M], _GRID
        )
        return {
            "thresholds": _GRID,
            "precision": precision,
            "recall": recall,
            "num_images": int(is_known_M.sum()),
            "num_with_label": int(has_M[is_known_M].sum()),
        }
