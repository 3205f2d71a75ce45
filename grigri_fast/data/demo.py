"""The demo set: drawn scenes with several labels each, so that everything runs without a download.

It is made to behave like real photographs with labels: the classes are imbalanced (3 to 27 %) and
go together as in nature (birds where there is sky, no clouds at night), half of the images have no
label although there is something to see in them, some are grayscale, and now and then a label is
missing, as where people have labelled. A small network learns it well within two minutes, but not
perfectly.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import GrigriError
from ..runtime import files
from ..runtime.files import StrPath

NUM_IMAGES = 2000
CLASSES = ("bird", "clouds", "flower", "house", "night", "people", "sea", "tree")

# What `train` without DATA does: from scratch, at a size that two CPU cores manage in two minutes.
RECIPE = {
    "name": "demo",
    "arch": "grigri",
    "weights": "none",
    "size": 48,
    "epochs": 10,
    "lr": 0.05,  # few steps: higher than the recipe's
}

_VERSION = 1  # part of the cache folder's name: a change of the drawings gets a new folder
_UNLABELLED = 0.46  # on top of these come images whose only label was forgotten
_FORGOTTEN = 0.04
_GRAYSCALE = 0.07
_SIDE_PX = (84, 128)
# Chance of each class in an image that has labels, before the rules of nature.
_CHANCE = {
    "bird": 0.08,
    "clouds": 0.24,
    "flower": 0.15,
    "house": 0.15,
    "night": 0.10,
    "people": 0.48,
    "sea": 0.18,
    "tree": 0.26,
}

Canvas = NDArray[np.uint8]
Rng = np.random.Generator
Colour = tuple[int, ...]
Point = Iterable[Any]


def cached_folder() -> Path:
    """Return the folder of the demo set in the user's cache, written there on first use."""
    folder = files.cache_folder() / f"demo-{_VERSION}"
    if not folder.is_dir():
        try:
            demo(folder)
        except GrigriError:
            if not folder.is_dir():  # else another process has written it in the meantime
                raise
    return folder


def demo(folder: StrPath, *, num_images: int = NUM_IMAGES, seed: int = 0) -> Path:
    """Write the demo set, the whole set or nothing, and return its folder: ``data demo``.

    Args:
        folder: to be made: ``images/im<N>.jpg`` and ``annotations/<class>.txt``.
        num_images: how many images to draw.
        seed: image N depends on seed and N alone.

    Raises:
        GrigriError: if a number is out of range, or the folder is there already or cannot be
            written.
    """
    folder = Path(folder)
    if not 1 <= num_images <= 1_000_000:
        raise GrigriError(f"--num-images must be from 1 to 1,000,000, not {num_images}")
    if seed < 0:
        raise GrigriError(f"--seed must be at least 0, not {seed}")
    if folder.exists():
        raise GrigriError(f"{folder} is there already; choose another folder")
    try:
        with files.unfinished_folder(folder) as unfinished:
            _write(unfinished, num_images, seed)
    except OSError as e:
        raise GrigriError(f"{folder}: the demo set cannot be written: {e.strerror or e}") from e
    return folder


def _write(folder: Path, num_images: int, seed: int) -> None:
    numbers: dict[str, list[int]] = {name: [] for name in CLASSES}
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    for number in range(1, num_images + 1):
        rng = np.random.default_rng([seed, number])
        labels = draw_labels(rng)
        image = Image.fromarray(draw_image(rng, labels))
        if rng.random() < _GRAYSCALE:
            image = image.convert("L")
        image.save(folder / "images" / f"im{number}.jpg", quality=int(rng.integers(75, 95)))
        for name in sorted(labels):  # a set's own order changes from process to process
            if rng.random() >= _FORGOTTEN:
                numbers[name].append(number)
    for name, having in numbers.items():
        text = "".join(f"{number}\n" for number in having)
        (folder / "annotations" / f"{name}.txt").write_text(text)
    (folder / "README.txt").write_text(
        "Drawn scenes with several labels each, written by `grigri-fast data demo`.\n"
        "A line N of annotations/<class>.txt says that images/im<N>.jpg has the class.\n"
    )


def draw_labels(rng: Rng) -> set[str]:
    """Return a random set of labels as nature would have it; about half of them are empty."""
    if rng.random() < _UNLABELLED:
        return set()
    labels: set[str] = set()
    while not labels:
        labels = {name for name, chance in _CHANCE.items() if rng.random() < chance}
        if "night" in labels:
            labels -= {"clouds", "flower", "bird"}
        if "sea" in labels:
            labels -= {"flower", "house", "tree"}
        if "people" in labels and rng.random() < 0.5:
            labels -= {"bird", "house", "tree"}  # people fill the picture
    return labels


def draw_image(rng: Rng, labels: set[str]) -> Canvas:
    """Return the RGB picture (H, W, 3) of a scene that shows the labels and nothing else."""
    height, width = rng.integers(*_SIDE_PX, 2)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    if labels or rng.random() < 0.35:
        horizon = int(height * rng.uniform(0.45, 0.7))
        _sky(rng, canvas, horizon, night="night" in labels)
        (_water if "sea" in labels else _ground)(rng, canvas, horizon)
        for name, draw in _THINGS.items():
            if name in labels:
                draw(rng, canvas, horizon)
        if not labels:
            _distractors(rng, canvas, horizon)
        if "night" in labels:
            canvas[horizon:] = canvas[horizon:] * 0.35
    else:
        _texture(rng, canvas)
        _distractors(rng, canvas, 0)
    return _as_photographed(rng, canvas)


# -------------------------------------------------------------------------- parts of a scene


def _noise(rng: Rng, height: int, width: int, grain_px: float) -> NDArray[Any]:
    """Return smooth noise (H, W, 1) of about -1 to 1, with grains of a size."""
    small = rng.standard_normal((max(2, round(height / grain_px)), max(2, round(width / grain_px))))
    small = small.astype(np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]


def _ints(*values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _pick(rng: Rng, *colours: Colour, spread: int = 18) -> Colour:
    """Return one of the colours, varied a little."""
    base = np.array(colours[rng.integers(len(colours))])
    return _ints(*(base + rng.integers(-spread, spread + 1, 3)).clip(0, 255))


def _any_colour(rng: Rng) -> Colour:
    return _ints(*rng.integers(30, 230, 3))


def _lit(colour: Colour, light: float) -> Colour:
    return _ints(*(min(255, c * light) for c in colour))


def _gradient(canvas: Canvas, top: Colour, bottom: Colour) -> None:
    way = np.linspace(0, 1, len(canvas))[:, None, None]
    canvas[:] = (1 - way) * np.array(top) + way * np.array(bottom)


def _add(canvas: Canvas, change: NDArray) -> None:
    canvas[:] = (canvas + change).clip(0, 255)


def _disc(canvas: Canvas, centre: Point, radius: Any, colour: Colour) -> None:
    cv2.circle(canvas, _ints(*centre), int(radius), colour, -1, cv2.LINE_AA)


def _oval(canvas: Canvas, centre: Point, axes: Point, colour: Colour, angle: float = 0) -> None:
    cv2.ellipse(canvas, _ints(*centre), _ints(*axes), angle, 0, 360, colour, -1, cv2.LINE_AA)


def _stroke(canvas: Canvas, start: Point, end: Point, colour: Colour, width: int) -> None:
    cv2.line(canvas, _ints(*start), _ints(*end), colour, width, cv2.LINE_AA)


def _sky(rng: Rng, canvas: Canvas, horizon: int, night: bool) -> None:
    sky, width = canvas[:horizon], canvas.shape[1]
    if not night:
        top = _pick(rng, (90, 140, 210), (120, 150, 190), (200, 150, 120), (150, 170, 200))
        _gradient(sky, top, _pick(rng, (200, 215, 230), (235, 205, 170)))
        return
    _gradient(sky, _pick(rng, (8, 8, 28), spread=6), _pick(rng, (30, 26, 60), (50, 35, 45)))
    for _ in range(rng.integers(8, 30)):
        y, x = rng.integers(horizon), rng.integers(width)
        canvas[y, x] = rng.integers(150, 256)
    if rng.random() < 0.6:
        centre = (rng.integers(width), rng.integers(horizon // 2 + 1))
        _disc(canvas, centre, rng.integers(4, 9), (240, 238, 215))
    for _ in range(rng.integers(2, 8)):
        _disc(canvas, (rng.integers(width), horizon - 2), 2, (255, 210, 120))


def _ground(rng: Rng, canvas: Canvas, horizon: int) -> None:
    ground = canvas[horizon:]
    top = _pick(rng, (110, 130, 80), (140, 125, 95), (130, 130, 130))
    _gradient(ground, top, _pick(rng, (70, 100, 45), (120, 100, 70), (100, 100, 105)))
    _add(ground, 22 * _noise(rng, len(ground), ground.shape[1], grain_px=4))


def _water(rng: Rng, canvas: Canvas, horizon: int) -> None:
    water = canvas[horizon:]
    _gradient(water, _pick(rng, (70, 120, 150), (60, 100, 140)), _pick(rng, (20, 70, 110)))
    height, width = water.shape[:2]
    waves = _noise(rng, height, max(2, width // 6), grain_px=3)
    waves = cv2.resize(waves, (width, height))[..., None]  # stretched: lines along the horizon
    _add(water, 38 * waves)


def _texture(rng: Rng, canvas: Canvas) -> None:
    """Fill the picture with a wall, cloth or paper: something, but none of the classes."""
    height, width = canvas.shape[:2]
    _gradient(canvas, *(_ints(*rng.integers(40, 220, 3)) for _ in range(2)))
    _add(canvas, rng.uniform(8, 40) * _noise(rng, height, width, grain_px=rng.uniform(2, 14)))
    if rng.random() < 0.5:  # bricks or tiles
        step_y, step_x = _ints(*rng.integers(8, 24, 2))
        line = _any_colour(rng)
        for row, y in enumerate(range(0, height, step_y)):
            cv2.line(canvas, (0, y), (width, y), line, 1)
            for x in range(row % 2 * step_x // 2, width, step_x):
                cv2.line(canvas, (x, y), (x, y + step_y), line, 1)


def _distractors(rng: Rng, canvas: Canvas, horizon: int) -> None:
    """Put boxes, balls and stones into the picture."""
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(0, 5)):
        colour = _any_colour(rng)
        x, y = _ints(rng.integers(width), rng.integers(horizon, height))
        size = int(rng.integers(5, 20))
        if rng.random() < 0.5:
            cv2.rectangle(canvas, (x, y - size), (x + 2 * size, y), colour, -1)
        else:
            _oval(canvas, (x, y), (size, max(3, size * rng.uniform(0.5, 1))), colour)


# ---------------------------------------------------------------------- what has a label


def _clouds(rng: Rng, canvas: Canvas, horizon: int) -> None:
    height, width = canvas.shape[:2]
    shape = np.zeros((height, width), dtype=np.float32)
    for _ in range(rng.integers(2, 5)):
        x, y = rng.integers(width), rng.integers(2, max(3, int(horizon * 0.75)))
        for _ in range(rng.integers(4, 8)):
            centre = _ints(x + rng.normal(0, 11), y + rng.normal(0, 3))
            axes = _ints(rng.integers(8, 17), rng.integers(4, 9))
            cv2.ellipse(shape, centre, axes, 0, 0, 360, 1, -1)
    shape[horizon:] = 0
    opacity = cv2.GaussianBlur(shape, (0, 0), 2.2)[..., None] * 0.95
    shade = 238 + 20 * _noise(rng, height, width, grain_px=8)
    canvas[:] = (canvas * (1 - opacity) + shade.clip(0, 255) * opacity).clip(0, 255)


def _house(rng: Rng, canvas: Canvas, horizon: int) -> None:
    height, width = canvas.shape[:2]
    w, h = _ints(rng.uniform(0.25, 0.5) * width, rng.uniform(0.2, 0.4) * height)
    x = int(rng.integers(0, max(1, width - w)))
    base = min(height - 1, horizon + int(rng.integers(3, 16)))
    wall = _pick(rng, (225, 215, 195), (190, 120, 95), (235, 235, 230), (200, 190, 140))
    cv2.rectangle(canvas, (x, base - h), (x + w, base), wall, -1)
    roof = _pick(rng, (140, 55, 45), (90, 70, 65), (70, 75, 90))
    peak = base - h - int(h * rng.uniform(0.4, 0.8))
    corners = np.array([[x - 4, base - h], [x + w + 4, base - h], [x + w // 2, peak]])
    cv2.fillPoly(canvas, [corners], roof, cv2.LINE_AA)
    pane = _pick(rng, (70, 85, 105), (50, 50, 60))
    columns = int(rng.integers(2, 4))
    for i in range(columns):
        left = x + int((i + 0.3) * w / columns)
        corner = (left + max(3, w // (3 * columns)), base - int(0.45 * h))
        cv2.rectangle(canvas, (left, base - int(0.75 * h)), corner, pane, -1)
    door = (x + w // 2 + w // 12, base)
    cv2.rectangle(canvas, (x + w // 2 - w // 12, base - int(0.35 * h)), door, roof, -1)


def _tree(rng: Rng, canvas: Canvas, horizon: int) -> None:
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(1, 4)):
        x = int(rng.integers(width))
        base = min(height - 1, horizon + int(rng.integers(2, 22)))
        tall = int(height * rng.uniform(0.35, 0.6))
        trunk = _pick(rng, (85, 60, 40), (60, 45, 35))
        _stroke(canvas, (x, base), (x, base - tall // 2), trunk, max(2, tall // 12))
        dark = _pick(rng, (35, 75, 30), (50, 90, 40), (90, 90, 30))
        for _ in range(rng.integers(14, 24)):
            right = x + rng.normal(0, tall * 0.15)
            centre = (right, base - tall * 0.68 + rng.normal(0, tall * 0.14))
            leaf = _lit(dark, rng.uniform(0.8, 1.5))
            _disc(canvas, centre, rng.integers(3, 8), leaf)


def _flower(rng: Rng, canvas: Canvas, horizon: int) -> None:
    height, width = canvas.shape[:2]
    petal = _pick(
        rng, (220, 50, 60), (240, 200, 40), (200, 70, 180), (245, 240, 245), (120, 80, 200)
    )
    heart = _pick(rng, (240, 190, 40), (90, 60, 30))
    for _ in range(rng.integers(1, 5)):
        size = float(rng.uniform(9, 20))
        x, y = _ints(rng.integers(width), rng.integers(int(height * 0.45), height))
        _stroke(canvas, (x, y), (x + int(rng.normal(0, 5)), height), (60, 110, 45), 2)
        num_petals, turn = int(rng.integers(5, 9)), rng.uniform(0, 360)
        for k in range(num_petals):
            angle = turn + 360 * k / num_petals
            way = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
            colour = _lit(petal, rng.uniform(0.85, 1.1))
            centre = np.array([x, y]) + 0.6 * size * way
            _oval(canvas, centre, (size * 0.55, size * 0.3), colour, angle)
        _disc(canvas, (x, y), max(2, int(size * 0.28)), heart)


def _people(rng: Rng, canvas: Canvas, horizon: int) -> None:
    height, width = canvas.shape[:2]
    for _ in range(1 + rng.binomial(3, 0.3)):
        tall = height * rng.uniform(0.45, 1.0)
        x = int(width * rng.uniform(0.12, 0.88))
        feet = int(min(height * 1.25, height * rng.uniform(0.85, 1.05) + tall * 0.2))
        head = max(4, int(tall * 0.105))
        top = int(feet - tall)
        skin = _pick(
            rng, (232, 190, 160), (198, 145, 110), (120, 80, 58), (245, 210, 185), spread=10
        )
        shirt = _any_colour(rng)
        trousers = _pick(rng, (40, 45, 70), (60, 55, 50), (110, 100, 90))
        shoulder, hip = top + int(2.4 * head), top + int(0.55 * tall)
        wide = int(1.7 * head)
        cv2.rectangle(canvas, (x - wide * 2 // 3, hip), (x + wide * 2 // 3, feet), trousers, -1)
        body = [[x - wide, shoulder], [x + wide, shoulder], [x + wide * 3 // 4, hip]]
        cv2.fillPoly(canvas, [np.array([*body, [x - wide * 3 // 4, hip]])], shirt, cv2.LINE_AA)
        for side in (-1, 1):
            hand = (x + side * int(wide * rng.uniform(1.1, 1.6)), hip - int(rng.integers(0, head)))
            arm = (x + side * wide, shoulder + head // 3)
            _stroke(canvas, arm, hand, shirt, max(2, head * 2 // 3))
            _disc(canvas, hand, max(1, head // 3), skin)
        hair = _pick(rng, (45, 30, 20), (120, 85, 45), (20, 18, 18), (170, 165, 160))
        neck = ((x - head // 3, top + head), (x + head // 3, shoulder + 2))
        cv2.rectangle(canvas, *neck, skin, -1)
        _oval(canvas, (x, top + head * 5 // 6), (head, head * 1.15), hair)
        _oval(canvas, (x, top + head + head // 5), (head * 0.82, head), skin)
        for side in (-1, 1):
            eye = (x + side * head // 3, top + head)
            cv2.circle(canvas, eye, max(1, head // 8), (35, 28, 25), -1)
        mouth_y = top + head + head * 2 // 3
        _stroke(canvas, (x - head // 4, mouth_y), (x + head // 4, mouth_y), (150, 70, 65), 1)


def _bird(rng: Rng, canvas: Canvas, horizon: int) -> None:
    width = canvas.shape[1]
    colour = _pick(rng, (35, 35, 40), (245, 245, 245), (110, 70, 40))
    for _ in range(rng.integers(1, 4)):
        span = int(rng.integers(12, 26))
        x = int(rng.integers(span // 2, width - span // 2))
        y = int(rng.integers(6, max(8, int(horizon * 0.8))))
        lift = int(span * rng.uniform(0.2, 0.55))
        for side in (-1, 1):
            half, tip = x + side * span // 2, (x + side * span, y - lift // 4)
            wing = np.array([(x, y - 2), (half, y - lift), tip, (half, y - lift // 3), (x, y + 3)])
            cv2.fillPoly(canvas, [wing], colour, cv2.LINE_AA)
        _oval(canvas, (x, y), (3, max(3, span // 4)), colour)


# From back to front. Night and sea are drawn as sky and water.
_THINGS: dict[str, Callable[[Rng, Canvas, int], None]] = {
    "clouds": _clouds,
    "house": _house,
    "tree": _tree,
    "bird": _bird,
    "people": _people,
    "flower": _flower,
}


def _as_photographed(rng: Rng, canvas: Canvas) -> Canvas:
    """Return the scene through a lens and a sensor: light, blur, vignette, grain."""
    height, width = canvas.shape[:2]
    photo: Any = canvas.astype(np.float32)
    photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.4, 1.0))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    photo *= (1 - rng.uniform(0, 0.18) * (x**2 + y**2))[..., None]
    photo *= rng.uniform(0.92, 1.08, 3)  # white balance
    photo = (photo - 128) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-14, 14)
    photo += rng.normal(0, rng.uniform(2, 7), photo.shape)
    return photo.clip(0, 255).astype(np.uint8)
