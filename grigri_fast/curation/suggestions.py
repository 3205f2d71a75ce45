"""What ``suggest`` finds, and the table of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.layouts.table_files import read_any
from ..errors import GrigriError
from ..runtime import files
from ..runtime.files import StrPath

TABLE, PAGE = "suggestions.csv", "suggestions.html"
_IN_DOUBT = 3  # classes that are named for a photograph, at most ...
_LEAST_DOUBT = 0.05  # ... and with a variance p (1 - p) of at least so much: p from 0.053 to 0.947


@dataclass(frozen=True)
class Suggestion:
    """A photograph to label.

    Attributes:
        path: the file.
        score: how much its label would tell, in nats (see :func:`selection.select`).
        labels: what the model gives it now.
        probabilities: by class name.
    """

    path: Path
    score: float
    labels: list[str]
    probabilities: dict[str, float]

    @property
    def in_doubt(self) -> list[str]:
        """The classes that the model knows least about, the worst first."""
        doubts = {name: p * (1 - p) for name, p in self.probabilities.items()}
        worst = sorted(doubts, key=doubts.__getitem__, reverse=True)[:_IN_DOUBT]
        return [name for name in worst if doubts[name] >= _LEAST_DOUBT]

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
                **{_column(name): f"{s.probabilities[name]:.6f}" for name in suggested.class_names},
            }
            for s in suggested.suggestions
        ]
    )


def read(suggestions: StrPath, class_names: Sequence[str]) -> list[Suggestion]:
    """Return the photographs in a table that :func:`to_csv` made, in its order.

    Args:
        suggestions: the table, or the folder that it is in.
        class_names: of the model.

    Raises:
        GrigriError: if it is no such table, is about other classes, or none of its photographs is
            there.
    """
    file = Path(suggestions)
    file = file / TABLE if file.is_dir() else file
    if not file.exists():
        raise GrigriError(f"--suggestions {file}: no such file")
    table = read_any(file)
    wanted = ["image", "labels", "score", *map(_column, class_names)]
    missing = table.lacks(wanted)
    if missing:
        raise GrigriError(
            f"--suggestions {file}: it has no column {missing[0]!r}; expected the {TABLE} that"
            f" suggest writes with a model of these classes"
        )
    found = []
    for line, (image, labels, *cells) in table.only(wanted):
        try:
            score, *probabilities = map(float, cells)
        except ValueError:
            raise GrigriError(
                f"--suggestions {file} line {line}: a score or probability is no number"
            ) from None
        of_class = dict(zip(class_names, probabilities, strict=True))
        given = [name for name in labels.split("|") if name in of_class]
        found.append(Suggestion(Path(image).absolute(), score, given, of_class))
    if not any(one.path.is_file() for one in found):
        first = f"; the first was {found[0].path}" if found else ""
        raise GrigriError(f"--suggestions {file}: none of its photographs is there{first}")
    return found


def _column(class_name: str) -> str:
    return f"p({class_name})"
