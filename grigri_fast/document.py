"""A short document of headings, text, tables and figures: as Markdown, and as one HTML page.

Text may hold `code`, **bold** and [links](https://example.org); all else is taken as it is.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field

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


def to_html(document: Document) -> str:
    """Return the document as one HTML page that needs no other file, and no script."""
    blocks = [_html_of(block) for block in document.blocks]
    title = html.escape(document.title)
    links = [
        f'<a href="#{_anchor(block.text)}">{_inline(block.text)}</a>'
        for block in document.blocks
        if isinstance(block, Heading)
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n<nav>{''.join(links)}</nav>\n"
        + "\n".join(blocks)
        + "\n</main>\n</body>\n</html>\n"
    )


def _html_of(block: Block) -> str:
    if isinstance(block, Heading):
        return f'<h2 id="{_anchor(block.text)}">{_inline(block.text)}</h2>'
    if isinstance(block, Notice):
        return f'<p class="notice">{_inline(block.text)}</p>'
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Figure):
        return _html_figure(block)
    return f"<p>{_inline(block.text)}</p>"


def _html_table(table: Table) -> str:
    def row(cells: list[str], tag: str) -> str:
        inner = []
        for i, cell in enumerate(cells):
            kind = "" if i < table.num_text else ' class="n"'
            text = _INTERVAL.sub(r" <small>(\1)</small>", _inline(cell))
            inner.append(f"<{tag}{kind}>{text}</{tag}>")
        return f"<tr>{''.join(inner)}</tr>"

    body = "\n".join(row(cells, "td") for cells in table.rows)
    head = row(table.columns, "th")
    return f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>{body}</tbody></table></div>'


def _html_figure(figure: Figure) -> str:
    svg = figure.draw("svg").decode()
    # Names within an SVG hold for the whole page, in which several stand.
    svg = re.sub(r'(id="|"#|url\(#)', lambda m: f"{m[1]}{figure.name}-", svg)
    label = html.escape(figure.caption.replace("`", ""))
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    caption = f"<figcaption>{_inline(figure.caption)}</figcaption>"
    return f'<figure><div class="wide">{svg}</div>{caption}</figure>'


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = _CODE.sub(r"<code>\1</code>", text)
    text = _BOLD.sub(r"<strong>\1</strong>", text)
    return _LINK.sub(r'<a href="\2">\1</a>', text)


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


_STYLE = """
:root { color-scheme: light dark; --ink: #2b2d42; --soft: #5f6680; --paper: #f6f7f9;
  --card: #ffffff; --line: #e3e6ea; --accent: #c23b50; --warm: #fdf3e0; --warm-ink: #6a4a0c;
  font: 16px/1.6 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ef; --soft: #a0a7bd; --paper: #14161c;
  --card: #1c1f27; --line: #333846; --accent: #f07a8c; --warm: #35290f; --warm-ink: #f3d596; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); }
main { max-width: 72rem; margin: 0 auto; 
  padding: clamp(1.2rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2rem); }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em;
  margin: 0 0 .8rem; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 3rem 0 .6rem; line-height: 1.25; }
p { max-width: 46rem; margin: .7rem 0; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin: 0 0 1.4rem; }
nav a { font-size: .84rem; text-decoration: none; color: var(--soft); background: var(--card);
  border: 1px solid var(--line); border-radius: 99px; padding: .12rem .75rem; }
nav a:hover { color: var(--accent); border-color: var(--accent); }
.notice { max-width: none; background: var(--warm); color: var(--warm-ink); padding: .8rem 1.1rem;
  border-radius: .6rem; }
code, pre { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .9rem 1.1rem; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; background: var(--card);
  border-radius: .6rem; overflow: hidden; box-shadow: 0 0 0 1px var(--line); margin: 2px 0; }
.wide:has(> table) { padding: 1px; margin: 1rem 0; }
th { text-align: left; font-weight: 600; font-size: .8rem; color: var(--soft);
  vertical-align: bottom; }
th, td { padding: .5rem .8rem; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
td { vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n, td code, p code { white-space: nowrap; }
th.n { min-width: 5.2rem; }
td:not(.n) + td:not(.n) { min-width: 11rem; }
small { color: var(--soft); font-size: .82em; }
figure { margin: 1.2rem 0; background: var(--card); border-radius: .6rem; padding: 1rem;
  box-shadow: 0 0 0 1px var(--line); }
figure svg { display: block; width: 100%; min-width: 42rem; height: auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .6rem; max-width: 46rem; }
@media print { figure, table { break-inside: avoid; } }
"""
