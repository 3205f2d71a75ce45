"""A short document of headings, text, tables and figures: as Markdown, and as one HTML page.

Text may hold `code`, **bold** and [links](https://example.org), but for titles, headings and names
of columns; all else is taken as it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from . import html
from .charts import escape
from .html import Section

_CODE, _BOLD = re.compile(r"`([^`]+)`"), re.compile(r"\*\*(.+?)\*\*")
_INTERVAL = re.compile(r"(?<=\d) \(([-.0-9]+)\)")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\"]+)\)")


@dataclass(frozen=True)
class Heading:
    """A heading of the second level."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A paragraph that nobody should miss."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be read, or typed, as they are."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of texts; the first ``num_text`` columns stand on the left, numbers on the right."""

    columns: list[str]
    rows: list[list[str]]
    num_text: int = 1


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: of its file, without suffix.
        caption: what it shows.
        draw: takes ``png`` or ``svg`` and returns the file's content.
    """

    name: str
    caption: str
    draw: Callable[[str], bytes]


Block = Heading | Text | Notice | Code | Table | Figure


@dataclass(frozen=True)
class Document:
    """A title and what stands beneath it, in order."""

    title: str
    blocks: list[Block] = field(default_factory=list)


# -------------------------------------------------------------------------------- Markdown


def to_markdown(document: Document, figures: str) -> str:
    """Return the document as Markdown.

    Args:
        document: what to write.
        figures: the folder of the figures, beside the file; see :func:`pictures`.
    """
    parts = [f"# {document.title}"]
    parts += [_markdown_of(block, figures) for block in document.blocks]
    return "\n\n".join(parts) + "\n"


def pictures(document: Document) -> dict[str, bytes]:
    """Return the PNG files that the Markdown shows, by name."""
    found = [block for block in document.blocks if isinstance(block, Figure)]
    return {f"{figure.name}.png": figure.draw("png") for figure in found}


def _markdown_of(block: Block, figures: str) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}"
    if isinstance(block, Notice):
        return f"> {block.text}"
    if isinstance(block, Code):
        return f"```sh\n{block.text}\n```"
    if isinstance(block, Table):
        rules = ["---"] * block.num_text + ["---:"] * (len(block.columns) - block.num_text)
        lines = [block.columns, rules, *block.rows]
        return "\n".join(f"| {' | '.join(_cell(c) for c in cells)} |" for cells in lines)
    if isinstance(block, Figure):
        return f"![{block.caption}]({figures}/{block.name}.png)\n\n*{block.caption}*"
    return block.text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# ------------------------------------------------------------------------------------ HTML


def to_html(document: Document, foot: str = "") -> str:
    """Return the document as one HTML page that needs no other file, and no script.

    Args:
        document: what to write; what is above its first heading stands below the title.
        foot: the page's last line, plain text.
    """
    opening: list[str] = []
    sections: list[tuple[str, list[str]]] = []
    for block in document.blocks:
        if isinstance(block, Heading):
            sections.append((block.text, []))
        else:
            (sections[-1][1] if sections else opening).append(_html_of(block))
    return html.frame(
        document.title,
        "",
        "\n".join(opening),
        [Section(_anchor(name), name, "\n".join(parts)) for name, parts in sections],
        foot,
    )


def _html_of(block: Text | Notice | Code | Table | Figure) -> str:
    if isinstance(block, Notice):
        return f'<p class="notice">{_inline(block.text)}</p>'
    if isinstance(block, Code):
        lines = "\n".join(map(escape, block.text.splitlines()))
        return f'<pre class="card below">{lines}</pre>'
    if isinstance(block, Table):
        rows = [[_small_interval(_inline(cell)) for cell in cells] for cells in block.rows]
        table = html.table(block.columns, rows, num_text=block.num_text)
        return f'<div class="card below">{table}</div>'
    if isinstance(block, Figure):
        return _html_figure(block)
    return f"<p>{_inline(block.text)}</p>"


def _html_figure(figure: Figure) -> str:
    svg = figure.draw("svg").decode()
    # Names within an SVG hold for the whole page, in which several stand.
    svg = re.sub(r'(id="|"#|url\(#)', lambda m: f"{m[1]}{figure.name}-", svg)
    label = escape(figure.caption.replace("`", ""))
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    caption = f'<figcaption class="note">{_inline(figure.caption)}</figcaption>'
    scroll = f'<div class="scroll" tabindex="0">{svg}</div>'
    return f'<figure class="card below">{scroll}{caption}</figure>'


def _small_interval(text: str) -> str:
    return _INTERVAL.sub(r" <small>(\1)</small>", text)


def _inline(text: str) -> str:
    text = _CODE.sub(r"<code>\1</code>", escape(text))
    text = _BOLD.sub(r"<strong>\1</strong>", text)
    return _LINK.sub(r'<a href="\2">\1</a>', text)


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
