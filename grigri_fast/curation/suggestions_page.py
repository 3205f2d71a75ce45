"""The page of ``suggest``: the photographs to label, and which labels are in doubt."""

from collections import Counter
from pathlib import Path

from ..reporting import html, photographs
from ..reporting.photographs import Photo, Shot, Tag
from .suggestions import Suggested, Suggestion

_MAX_SHOWN = 400
_LEAST_SHOWN = 0.1  # probability of a label that is no longer worth a word


def write(suggested: Suggested, run: Path, *, threads: int, max_pixels: int) -> str:
    """Return the page; the same text for the same suggestions.

    Args:
        suggested: the photographs.
        run: the run folder whose model was asked.
        threads: for reading and decoding the photographs.
        max_pixels: larger photographs are not shown.
    """
    shown = suggested.suggestions[:_MAX_SHOWN]
    photos = photographs.read(
        [s.path for s in shown], range(len(shown)), threads=threads, max_pixels=max_pixels
    )
    return to_html(suggested, run, photos)


def to_html(suggested: Suggested, run: Path, photos: dict[int, Photo]) -> str:
    """Return the page, with photographs by their place among the suggestions."""
    doubts = Counter(name for s in suggested.suggestions for name in s.in_doubt)
    given = Counter(name for s in suggested.suggestions for name in s.labels)
    shots = [_shot(s, photos.get(i)) for i, s in enumerate(suggested.suggestions[:_MAX_SHOWN])]
    return html.render(
        "suggestions.html.j2",
        suggested=suggested,
        run=run.resolve().name,
        shots=shots,
        doubts=[(name, doubts[name], given[name]) for name, _ in doubts.most_common()],
    )


def _shot(suggestion: Suggestion, photo: Photo | None) -> Shot:
    """Return a photograph with the labels in doubt first, then those that the model is sure of."""
    said = suggestion.probabilities
    names = [*suggestion.in_doubt]
    names += [name for name in suggestion.labels if name not in names]
    return Shot(
        photo=photo or Photo(missing="not read"),
        path=suggestion.path,
        kind="missed",
        alt=f"{suggestion.path.name}; {suggestion.why}",
        tags=[
            Tag(f"{name} {said[name]:.2f}", is_subject=name in suggestion.in_doubt)
            for name in names
            if name in suggestion.in_doubt or said[name] >= _LEAST_SHOWN
        ]
        or [Tag("no label")],
    )
