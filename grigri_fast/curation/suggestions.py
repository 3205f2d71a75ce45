"""What ``suggest`` finds, and the table of it."""

from dataclasses import dataclass
from pathlib import Path

from ..runtime import files

TABLE, PAGE = "suggestions.csv", "suggestions.html"


@dataclass(frozen=True)
class Suggestion:
    """A photograph to label.

    Attributes:
        path: the file.
        score: how much its label would tell, in nats (see :func:`selection.select`).
        labels: what the model gives it now.
        probabilities: by class name.
        in_doubt: the classes that the model knows least about, the worst first.
    """

    path: Path
    score: float
    labels: list[str]
    probabilities: dict[str, float]
    in_doubt: list[str]

    @property
    def why(self) -> str:
        """Return in words what the model does not know."""
        doubts = ", ".join(f"{name} {self.probabilities[name]:.2f}" for name in self.in_doubt)
        return f"in doubt: {doubts}" if doubts else "unlike the others"


@dataclass(frozen=True)
class Suggested:
    """What :func:`suggest` returns.

    Attributes:
        suggestions: the photographs to label, the one that teaches most first.
        class_names: of the model.
        num_images: photographs that were looked at.
        known: those that are left out, since the run's data has them already.
        alike: by path, those that are left out: the suggested one that shows the same.
        bad: by path, why a file cannot be used.
        out: the folder with the table and the page.
    """

    suggestions: list[Suggestion]
    class_names: list[str]
    num_images: int
    known: list[Path]
    alike: dict[Path, Path]
    bad: dict[Path, str]
    out: Path


def to_csv(suggested: Suggested) -> str:
    """Return the table: the photographs in order, why, and what the model gives them.

    The columns ``image`` and ``labels`` alone, with the labels corrected, are a data set.
    """
    return files.to_csv(
        [
            {
                "image": str(s.path.absolute()),
                "labels": "|".join(s.labels),
                "score": f"{s.score:.6f}",
                "why": s.why,
                **{f"p({name})": f"{s.probabilities[name]:.6f}" for name in suggested.class_names},
            }
            for s in suggested.suggestions
        ]
    )
