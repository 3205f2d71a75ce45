"""Small charts as SVG text, to stand in an HTML page: no script, no fonts, nothing to load.

Every function is pure: numbers in, an ``<svg>`` out, the same text for the same numbers. Colours
and sizes are classes of :data:`STYLE`, whose CSS variables a page may set for light and dark. A
chart is as wide as its place allows. Names and labels are escaped here. A value that is no finite
number is left out.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STYLE = """
.chart{display:block;width:100%;height:auto;font-size:11px;font-variant-numeric:tabular-nums}
.chart text{fill:var(--muted)}
.chart .strong{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--surface);
stroke-width:4px;stroke-linejoin:round}
.chart .end{text-anchor:end}
.chart .middle{text-anchor:middle}
.chart .grid{stroke:var(--grid)}
.chart .axis{stroke:var(--axis)}
.chart .line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.chart .dashed{stroke-dasharray:4 4;stroke-width:1.5}
.chart .area{fill:var(--c);opacity:.13}
.chart .dot{fill:var(--c);stroke:var(--surface);stroke-width:1.5}
.chart .mark{stroke:var(--c);stroke-width:1.5;stroke-dasharray:3 3}
.chart .bar{fill:var(--c)}
.chart .cell{fill:var(--heat)}
.chart .empty{fill:none;stroke:var(--grid)}
.chart .on-cell{fill:var(--ink)}
.meter{display:inline-block;vertical-align:middle}
.meter .track{fill:var(--grid)}
.meter .bar,.meter .value{fill:var(--c)}
.c0{--c:var(--muted);--heat:var(--axis)}.c1{--c:var(--colour-1);--heat:var(--heat-1)}
.c2{--c:var(--colour-2);--heat:var(--heat-2)}.c3{--c:var(--colour-3);--heat:var(--heat-3)}
.c4{--c:var(--colour-4);--heat:var(--heat-4)}
"""
_CHAR_PX = 6.0  # about the mean width of a character at 11 px
_BOTTOM_PX = 38  # numbers and name of the x axis


def escape(text: object) -> str:
    """Return text for HTML, between tags and in quoted attributes alike.

    What cannot be printed (control characters, marks that turn the direction of writing, bytes of a
    file name that are not UTF-8) becomes an escape that can be read.
    """
    return html.escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)))


def brief(value: float) -> str:
    """Return a number as it stands at an axis: 0.25, 12, 4,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.10g}"


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the legend; "" is not in it.
        x, y: the points; the line breaks where one is no finite number.
        colour: 0 (muted) to 4.
        dashed: for what is there to compare with.
        dots: draw the points too, each with its numbers as a tool tip.
        steps: each point's value holds from the x of the one before.
        area: fill what is below.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 1
    dashed: bool = False
    dots: bool = False
    steps: bool = False
    area: bool = False


@dataclass(frozen=True)
class Mark:
    """A point that matters, with a tool tip; without ``y`` a vertical line.

    Attributes:
        label: what stands beside it, or "".
    """

    x: float
    y: float | None = None
    tip: str = ""
    label: str = ""
    colour: int = 2


def line_chart(
    lines: Sequence[Line],
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[Mark] = (),
    legend: bool = True,
    whole_x: bool = False,
    width: int = 360,
    height: int = 220,
) -> str:
    """Return a chart of lines.

    Args:
        lines: the later ones are drawn over the earlier ones.
        title: what it shows, for who cannot see it.
        x_label, y_label: names of the axes.
        x_range, y_range: the ends of the axes; by default they fit the points.
        marks: points that matter.
        legend: whether names stand above.
        whole_x: x is counted in whole numbers (epochs).
        width, height: in px at 1:1.
    """
    x_range = x_range or _range([x for line in lines for x in line.x])
    y_range = y_range or _rounded(_range([y for line in lines for y in line.y]))
    named = [line for line in lines if line.name] if legend else []
    frame = _Frame.of(
        x_range, y_range, width, height, bool(y_label), whole_x, has_legend=bool(named)
    )
    body = [frame.axes(x_label, y_label)]
    body += [_line(line, frame) for line in lines]
    body += [_mark(mark, frame) for mark in marks]
    return _svg(width, height, title, _legend(named, frame), *body)


def bar_chart(
    edges: Sequence[float],
    heights: Sequence[float],
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    tips: Sequence[str] | None = None,
    log: bool = False,
    colour: int = 1,
    width: int = 360,
    height: int = 130,
) -> str:
    """Return a chart of bars that stand side by side, such as a histogram's.

    Args:
        edges: where bars begin and end, one more than there are bars.
        heights: of the bars.
        title: what it shows.
        x_label, y_label: names of the axes.
        tips: a tool tip per bar; by default its height.
        log: a logarithmic axis from 1 on; what is below has no bar.
        colour: 0 to 4.
        width, height: in px at 1:1.
    """
    scale: Callable[[float], float] = (lambda v: math.log10(max(v, 1))) if log else float
    top = max([scale(h) for h in heights if math.isfinite(h)], default=0)
    y_range = (0, max(1, math.ceil(top))) if log else _rounded((0, top))
    frame = _Frame.of((edges[0], edges[-1]), y_range, width, height, bool(y_label), log_y=log)
    bars = []
    for i, value in enumerate(heights):
        left, right = frame.x(edges[i]) + 1, frame.x(edges[i + 1]) - 1
        y = frame.y(scale(value)) if math.isfinite(value) else frame.bottom
        if log and value == 1:
            y = frame.bottom - 2  # log 1 is 0, but there is something
        tip = tips[i] if tips else brief(value)
        bars.append(
            f'<rect class="bar c{colour}" x="{_px(left)}" y="{_px(y)}" rx="2"'
            f' width="{_px(right - left)}" height="{_px(frame.bottom - y)}">{_tip(tip)}</rect>'
        )
    return _svg(width, height, title, frame.axes(x_label, y_label), *bars)


def heat_map(
    values_RC: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    *,
    tip: Callable[[int, int], str] | None = None,
    colour: int = 1,
    width: int = 520,
) -> str:
    """Return a map of values from 0 to 1 as strengths of a colour.

    Args:
        values_RC: the values; the cell of one that is no number is empty.
        rows, columns: their names.
        title: what it shows.
        tip: the tool tip of a row's and column's cell; by default names and value.
        colour: 0 to 4.
        width: in px at 1:1; the height follows.
    """
    longest = max(map(len, [*rows, *columns]), default=0)
    margin = min(96.0, 10 + _CHAR_PX * longest)
    max_chars = int((margin - 10) / _CHAR_PX)
    side = (width - margin) / max(1, len(columns))
    has_text = side >= 24
    font = f' style="font-size:{_px(max(5, min(11, side * 0.9)))}px"' if side < 13 else ""
    body = []
    for c, name in enumerate(columns):
        x, y = margin + (c + 0.5) * side + 3, margin - 6
        body.append(
            f'<text{font} transform="translate({_px(x)} {_px(y)}) rotate(-90)">'
            f"{escape(_shortened(name, max_chars))}{_tip(name)}</text>"
        )
    for r, name in enumerate(rows):
        y = margin + (r + 0.5) * side
        body.append(
            f'<text{font} class="end" x="{_px(margin - 7)}" y="{_px(y + 4)}">'
            f"{escape(_shortened(name, max_chars))}{_tip(name)}</text>"
        )
        for c, value in enumerate(values_RC[r]):
            text = tip(r, c) if tip else f"{name}, {columns[c]}: {value:.3f}"
            body.append(_cell(margin + c * side, margin + r * side, side, value, text, has_text))
    height = math.ceil(margin + side * len(rows)) + 1
    return _svg(width, height, title, f'<g class="c{colour}">{"".join(body)}</g>')


def meter(value: float, colour: int = 1, width: int = 72) -> str:
    """Return a small bar for a table: how much of 0 to 1. The number stands beside it."""
    filled = width * min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
    bar = f'<rect class="bar" width="{_px(filled)}" height="6" rx="3"/>' if filled else ""
    return (
        f'<svg class="meter c{colour}" viewBox="0 0 {width} 6" width="{width}" height="6"'
        f' aria-hidden="true"><rect class="track" width="{width}" height="6" rx="3"/>{bar}</svg>'
    )


def interval_meter(value: float, low: float, high: float, colour: int = 1, width: int = 120) -> str:
    """Return a small picture of a score from 0 to 1 and its interval. The numbers stand beside."""
    if not all(map(math.isfinite, (value, low, high))):
        return ""
    left, right = (width * min(1.0, max(0.0, x)) for x in (low, high))
    at = min(width - 1.0, max(1.0, width * value)) - 1
    return (
        f'<svg class="meter c{colour}" viewBox="0 0 {width} 10" width="{width}" height="10"'
        f' aria-hidden="true"><rect class="track" y="4" width="{width}" height="2" rx="1"/>'
        f'<rect class="bar" x="{_px(left)}" y="2" width="{_px(max(1, right - left))}" height="6"'
        f' rx="2" opacity=".4"/><rect class="value" x="{_px(at)}" width="2" height="10"/></svg>'
    )


# ------------------------------------------------------------------------------- the pieces


@dataclass(frozen=True)
class _Frame:
    """Where the axes are: the range of each, and the pixels of its ends."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float
    right: float
    top: float
    bottom: float
    whole_x: bool = False
    log_y: bool = False

    @classmethod
    def of(
        cls,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        width: int,
        height: int,
        has_y_label: bool,
        whole_x: bool = False,
        log_y: bool = False,
        has_legend: bool = False,
    ) -> "_Frame":
        """Return the frame of a picture, with room for the numbers at its axes."""
        longest = max(len(_tick_text(t, log_y)) for t in _ticks(*y_range))
        left = 12 + _CHAR_PX * longest + 16 * has_y_label
        ends = (width - 14, 24 if has_legend else 10, height - _BOTTOM_PX)
        return cls(x_range, y_range, left, *ends, whole_x, log_y)

    def x(self, value: float) -> float:
        """Return the pixel of a value."""
        return _between(value, self.x_range, self.left, self.right)

    def y(self, value: float) -> float:
        """Return the pixel of a value."""
        return _between(value, self.y_range, self.bottom, self.top)

    def axes(self, x_label: str, y_label: str) -> str:
        """Return grid lines, numbers and names."""
        about = 4 if self.bottom - self.top > 90 else 2
        out = []
        for tick in _ticks(*self.y_range, about, whole=self.log_y):
            y = _px(self.y(tick))
            kind = "axis" if tick == self.y_range[0] else "grid"
            out.append(
                f'<line class="{kind}" x1="{_px(self.left)}" x2="{_px(self.right)}" y1="{y}"'
                f' y2="{y}"/><text class="end" x="{_px(self.left - 7)}"'
                f' y="{_px(self.y(tick) + 4)}">{_tick_text(tick, self.log_y)}</text>'
            )
        for tick in _ticks(*self.x_range, 5, whole=self.whole_x):
            out.append(
                f'<text class="middle" x="{_px(self.x(tick))}" y="{_px(self.bottom + 16)}">'
                f"{brief(tick)}</text>"
            )
        if x_label:
            out.append(
                f'<text class="middle" x="{_px((self.left + self.right) / 2)}"'
                f' y="{_px(self.bottom + 32)}">{escape(x_label)}</text>'
            )
        if y_label:
            y = _px((self.top + self.bottom) / 2)
            out.append(
                f'<text class="middle" transform="translate(11 {y}) rotate(-90)">'
                f"{escape(y_label)}</text>"
            )
        return "".join(out)


def _line(line: Line, frame: _Frame) -> str:
    """Return a line: its area, the line itself, its dots."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append((frame.x(x), frame.y(y)))
        elif pieces[-1]:
            pieces.append([])
    out = []
    for points in filter(None, pieces):
        path = _path(points, line.steps)
        if line.area and len(points) > 1:
            floor = _px(frame.bottom)
            closed = f"{path}V{floor}H{_px(points[0][0])}Z"
            out.append(f'<path class="area c{line.colour}" d="{closed}"/>')
        dashed = " dashed" if line.dashed else ""
        out.append(f'<path class="line c{line.colour}{dashed}" d="{path}"/>')
    if line.dots:
        for x, y in zip(line.x, line.y, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                tip = f"{line.name or 'value'} at {brief(x)}: {y:.4f}"
                out.append(_dot(frame.x(x), frame.y(y), 3.5, line.colour, tip))
    return "".join(out)


def _path(points: list[tuple[float, float]], steps: bool) -> str:
    (x, y), *rest = points
    path = [f"M{_px(x)} {_px(y)}"]
    path += [f"V{_px(y)}H{_px(x)}" if steps else f"L{_px(x)} {_px(y)}" for x, y in rest]
    return "".join(path)


def _mark(mark: Mark, frame: _Frame) -> str:
    """Return a mark with its label on the side where there is room."""
    x = frame.x(mark.x)
    fits = x + 12 + 1.15 * _CHAR_PX * len(mark.label) < frame.right
    classes, gap = ("strong", 8) if fits else ("strong end", -8)
    if mark.y is None:
        shape = (
            f'<line class="mark c{mark.colour}" x1="{_px(x)}" x2="{_px(x)}"'
            f' y1="{_px(frame.top)}" y2="{_px(frame.bottom)}">{_tip(mark.tip)}</line>'
        )
        y = frame.top + 4
    else:
        y = frame.y(mark.y)
        shape = _dot(x, y, 5, mark.colour, mark.tip)
    if not mark.label:
        return shape
    return (
        f'{shape}<text class="{classes}" x="{_px(x + gap)}" y="{_px(max(y - 8, 10))}">'
        f"{escape(mark.label)}</text>"
    )


def _dot(x: float, y: float, radius: float, colour: int, tip: str) -> str:
    return (
        f'<circle class="dot c{colour}" cx="{_px(x)}" cy="{_px(y)}" r="{_px(radius)}">'
        f"{_tip(tip)}</circle>"
    )


def _cell(x: float, y: float, side: float, value: float, tip: str, has_text: bool) -> str:
    """Return a cell of a heat map. Ink is readable on every strength of a ``--heat`` colour."""
    gap = 0.5 if side < 10 else 1
    place = (
        f'x="{_px(x + gap / 2)}" y="{_px(y + gap / 2)}" width="{_px(side - gap)}"'
        f' height="{_px(side - gap)}" rx="{2 if side >= 10 else 0}"'
    )
    if not math.isfinite(value):
        return f'<rect class="empty" {place}>{_tip(tip)}</rect>'
    strength = 0.05 + 0.95 * min(1.0, max(0.0, value))
    cell = f'<rect class="cell" fill-opacity="{strength:.3f}" {place}>{_tip(tip)}</rect>'
    if not has_text:
        return cell
    kind = "middle on-cell" if value >= 0.05 else "middle"
    return (
        f'{cell}<text class="{kind}" pointer-events="none" x="{_px(x + side / 2)}"'
        f' y="{_px(y + side / 2 + 4)}">{100 * value:.0f}</text>'
    )


def _legend(lines: Sequence[Line], frame: _Frame) -> str:
    out, x = [], frame.left
    for line in lines:
        dashed = " dashed" if line.dashed else ""
        out.append(
            f'<path class="line c{line.colour}{dashed}" d="M{_px(x)} 8h14"/>'
            f'<text x="{_px(x + 19)}" y="12">{escape(line.name)}</text>'
        )
        x += 34 + _CHAR_PX * len(line.name)
    return "".join(out)


def _svg(width: float, height: float, title: str, *body: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_px(width)} {_px(height)}" role="img"'
        f' aria-label="{escape(title)}">{"".join(body)}</svg>'
    )


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _px(value: float) -> str:
    """Return pixels with one decimal, as short as possible."""
    return f"{value:.1f}".removesuffix(".0")


def _between(value: float, ends: tuple[float, float], low: float, high: float) -> float:
    span = ends[1] - ends[0]
    return low + (high - low) * ((value - ends[0]) / span if span else 0.5)


def _shortened(name: str, max_chars: int) -> str:
    return name if len(name) <= max_chars else name[: max(1, max_chars - 1)] + "…"


# --------------------------------------------------------------------------------- the axes


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest of the finite values; 0 to 1 without any."""
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _rounded(ends: tuple[float, float]) -> tuple[float, float]:
    """Return ends widened to round numbers."""
    low, high = ends
    if low == high:
        pad = abs(low) / 10 or 1.0
        low, high = (low if low == 0 else low - pad), high + pad
    for _ in range(3):  # a wider range may have wider steps
        step = _step((high - low) / 4)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high


def _step(about: float, whole: bool = False) -> float:
    """Return the 1, 2, 2.5 or 5 times a power of ten that is next above; at least 1 if whole."""
    about = max(1.0, about) if whole else about
    power = 10.0 ** math.floor(math.log10(about))
    steps = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    return next(power * m for m in steps if power * m >= about * (1 - 1e-9))


def _ticks(low: float, high: float, about: int = 4, whole: bool = False) -> list[float]:
    """Return round numbers from ``low`` to ``high``, about so many steps of them."""
    if low == high:
        return [low]
    step = _step((high - low) / about, whole)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _tick_text(tick: float, log: bool) -> str:
    if not log:
        return brief(tick)
    power = round(tick)
    return f"{10**power:,}" if power < 6 else f"1e{power}"
