"""The frame of an HTML page that needs nothing but itself: style, heading, navigation, sections.

One file, no script, nothing to load: a policy in its head forbids both, so that a name that got
into it unescaped could still do nothing. Light or dark as the reader's system is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import charts
from .charts import escape

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root{color-scheme:light dark;
--ground:#f5f6f8;--surface:#fff;--ink:#16191d;--muted:#5f6b7a;--grid:#e7eaee;--axis:#b6bec9;
--border:#e2e6eb;--soft:#eff2f6;
--colour-1:#2563eb;--colour-2:#d9480f;--colour-3:#0b8a6f;--colour-4:#7c3aed;
--heat-1:#7fa8ff;--heat-2:#ff9e73;--heat-3:#4fcbaa;--heat-4:#b493f7;
--font:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media (prefers-color-scheme: dark){:root{
--ground:#0d1014;--surface:#161a20;--ink:#e8ebef;--muted:#9aa6b4;--grid:#262c35;--axis:#4b5563;
--border:#262c35;--soft:#1e242c;
--colour-1:#74a9ff;--colour-2:#ff9a62;--colour-3:#4fd3b0;--colour-4:#b9a0ff;
--heat-1:#3565c8;--heat-2:#b0501f;--heat-3:#127b63;--heat-4:#6b45c4}}
*{box-sizing:border-box}
html{scroll-padding-top:4.2rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.55;font-size:15px;
font-family:var(--font)}
p{max-width:74ch}
a{color:inherit;text-decoration-color:var(--axis);text-underline-offset:3px}
a:hover{color:var(--colour-1)}
:focus-visible{outline:2px solid var(--colour-1);outline-offset:2px;border-radius:4px}
.wrap{max-width:1120px;margin:0 auto;padding:0 20px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;z-index:9}
nav{position:sticky;top:0;z-index:5;border-bottom:1px solid var(--border);
background:color-mix(in srgb,var(--ground) 88%,transparent);backdrop-filter:blur(10px)}
nav .wrap{display:flex;gap:22px;overflow-x:auto;scrollbar-width:none;padding-right:44px;
mask-image:linear-gradient(90deg,#000 calc(100% - 44px),transparent)}
nav a{padding:14px 0;font-size:13.5px;white-space:nowrap;text-decoration:none;color:var(--muted)}
nav a:first-child{font-weight:650;color:var(--ink)}nav a:hover{color:var(--colour-1)}
header{padding:46px 0 0}header+main>section:first-child{margin-top:30px}
h1{margin:0;font-size:clamp(1.7rem,4.5vw,2.5rem);line-height:1.15;letter-spacing:-.022em;
font-weight:680;overflow-wrap:anywhere}
.lead{margin:.5rem 0 0;color:var(--muted);font-size:1.02rem;overflow-wrap:anywhere}
section{margin-top:52px}
h2{margin:0 0 12px;font-size:1.32rem;letter-spacing:-.012em;font-weight:650}
h3 small{color:var(--muted);font-weight:400;margin-left:6px}
h3{margin:0;font-size:1rem;font-weight:650;overflow-wrap:anywhere}
h2+p{margin:-8px 0 18px;color:var(--muted)}
.card{background:var(--surface);border:1px solid var(--border);border-radius:14px;padding:18px;
min-width:0}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--least,
310px)),1fr))}
.card figcaption,.card>h3{margin:0 0 10px;font-size:.93rem;font-weight:620;overflow-wrap:anywhere}
.card figcaption.note{margin:10px 0 0;font-size:.86rem;font-weight:400;max-width:84ch}
figure{margin:0}.below{margin:16px 0 0}
.note{color:var(--muted);font-size:.86rem;margin:10px 0 0}
.notice{border-left:3px solid var(--colour-2);padding:10px 14px;margin:18px 0 0;max-width:none;
background:var(--surface);border-radius:0 10px 10px 0}
.tiles{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr))}
.tile b{display:block;font-size:2.05rem;line-height:1.2;letter-spacing:-.02em;font-weight:660;
font-variant-numeric:tabular-nums}
.tile span{color:var(--muted);font-size:.86rem;font-variant-numeric:tabular-nums}
.tile .name{font-size:.9rem;color:var(--ink);font-weight:600}
.tile .meter{display:block;margin:8px 0 4px;max-width:100%}
.facts{display:grid;gap:14px 26px;margin:24px 0 0;
grid-template-columns:repeat(auto-fill,minmax(min(100%,150px),1fr))}
.facts div{min-width:0}.facts .wide{grid-column:span 2}
@media (max-width:420px){.facts{grid-template-columns:1fr 1fr}}
.facts dt{color:var(--muted);font-size:.8rem}.facts dd{margin:0;font-weight:550;
overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%}
.scroll>svg{display:block;width:100%;min-width:680px;height:auto}.scroll>.chart{min-width:440px}
table{border-collapse:separate;border-spacing:0;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;color:var(--muted);font-size:.86rem;padding:0 0 10px}
caption span{position:sticky;left:0;display:inline-block;max-width:min(70ch,100vw - 58px)}
th,td{padding:8px 12px;text-align:right;border-top:1px solid var(--border);white-space:nowrap}
thead th{border-top:0;color:var(--muted);font-weight:550;font-size:.82rem;vertical-align:bottom;
white-space:normal}
th:first-child,td:first-child{text-align:left;padding-left:0}
.numbers th:first-child{position:sticky;left:0;background:var(--surface)}
.numbers .words{text-align:left;white-space:normal;min-width:11rem}.words~th{min-width:5.7rem}
th:last-child,td:last-child{padding-right:0}
tbody th{font-weight:600}tbody tr:hover>*{background:var(--soft)}
td .meter{margin-right:9px}
td small{color:var(--muted)}
.text td,.text th{text-align:left;white-space:normal;vertical-align:top;overflow-wrap:anywhere}
.text code{white-space:pre-wrap}.text tbody th{font-weight:400}
.text .option{white-space:nowrap;overflow-wrap:normal}
.text .same{color:var(--muted)}
code,pre{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{line-height:1.6;overflow-x:auto}
details{margin-top:12px}details>summary{cursor:pointer;font-weight:620;padding:2px 0}
details[open]>summary{margin-bottom:10px}
.jump{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 16px;padding:0;list-style:none}
.jump a{display:block;padding:3px 11px;border:1px solid var(--border);border-radius:99px;
background:var(--surface);text-decoration:none;font-size:.86rem;overflow-wrap:anywhere}
.kind{display:flex;white-space:nowrap;align-items:baseline;gap:8px;margin:16px 0 8px;
font-size:.88rem;font-weight:620}
.kind small{color:var(--muted);font-weight:400}
.kind::before{content:"";flex:none;width:9px;height:9px;border-radius:3px;background:var(--c)}
.shots{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(148px,1fr))}
.shot{border:1px solid var(--border);border-radius:10px;overflow:hidden;min-width:0}
.shot .photo{display:grid;place-items:center;height:112px;background:var(--soft);
border-top:3px solid var(--c)}
.shot img{display:block;max-width:96px;max-height:96px;width:auto;height:auto;border-radius:4px}
.shot .gone{font-size:.76rem;color:var(--muted);padding:8px;text-align:center}
.card .shot figcaption{padding:8px 10px 10px;margin:0;font-size:.78rem;font-weight:400}
.shot .file{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
color:var(--muted)}
.shot .said{display:flex;align-items:center;gap:8px;font-weight:650;font-size:.95rem;
font-variant-numeric:tabular-nums}
.tags{display:flex;flex-wrap:wrap;gap:4px;margin:6px 0 0;padding:0;list-style:none}
.tags li,.key span{border-radius:5px;padding:0 6px;background:var(--soft);color:var(--ink);
overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.tags .this{font-weight:650}
.tags li::before,.key span::before{font-weight:700;color:var(--c);margin-right:4px}
.right{--c:var(--colour-3)}.right::before{content:"\\2713"}
.false{--c:var(--colour-2)}.false::before{content:"\\2715"}
.missed{--c:var(--colour-4)}.missed::before{content:"\\25cb"}
.right-kind{--c:var(--colour-3)}.false-kind{--c:var(--colour-2)}
.missed-kind{--c:var(--colour-4)}
.key{display:flex;flex-wrap:wrap;gap:8px;font-size:.86rem;margin:0 0 14px}
footer{margin:60px 0 40px;color:var(--muted);font-size:.86rem}
@media (max-width:560px){body{font-size:14.5px}.wrap{padding:0 14px}.card{padding:14px}
section{margin-top:40px}header{padding-top:30px}td .meter{display:none}
.numbers .words{min-width:8rem}.tile b{font-size:1.7rem}.tiles{gap:10px}
.shots{grid-template-columns:repeat(auto-fill,minmax(132px,1fr))}}
@media print{nav{display:none}body{background:#fff}.card,.shot{break-inside:avoid}}
"""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: its address within the page, ``#key``.
        name: its heading, and its name in the navigation.
        body: HTML.
        intro: what it shows, in plain words.
    """

    key: str
    name: str
    body: str
    intro: str = ""


def frame(title: str, lead: str, heading: str, sections: Sequence[Section], foot: str) -> str:
    """Return a page.

    Args:
        title: its name, plain text.
        lead: what it is about, plain text, or "".
        heading: HTML below the title.
        sections: what it consists of.
        foot: its last line, plain text.
    """
    links = "".join(f'<a href="#{s.key}">{escape(s.name)}</a>' for s in sections)
    lead = f'<p class="lead">{escape(lead)}</p>\n' if lead else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{charts.STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">To the content</a>\n'
        f'<nav aria-label="Sections"><div class="wrap"><a href="#top">{escape(title)}</a>'
        f'{links}</div></nav>\n<div class="wrap" id="top">\n<header>\n<h1>{escape(title)}</h1>\n'
        f'{lead}{heading}\n</header>\n<main id="main">\n'
        + "\n".join(map(_section, sections))
        + f"\n</main>\n<footer>{escape(foot)}</footer>\n</div>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    intro = f"<p>{escape(section.intro)}</p>\n" if section.intro else ""
    key, name = section.key, escape(section.name)
    return (
        f'<section id="{key}" aria-labelledby="{key}-name">\n<h2 id="{key}-name">{name}</h2>\n'
        f"{intro}{section.body}\n</section>"
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", num_text: int = 1
) -> str:
    """Return a table that scrolls by itself where it is too wide.

    Args:
        head: names of the columns, plain text.
        rows: cells, HTML; the first of each is its heading.
        caption: what it shows, plain text, or "".
        num_text: so many columns hold text, on the left; the others hold numbers, on the right.
    """
    words = [' class="words"' if 0 < i < num_text else "" for i in range(len(head))]
    names = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(words, head, strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(words[1:], rest, strict=True))
        + "</tr>"
        for first, *rest in rows
    )
    kind = "text" if num_text == len(head) else "numbers"
    above = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}">{above}'
        f"<thead><tr>{names}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names with their values, plain text, side by side."""
    items = []
    for name, value in pairs:
        kind = ' class="wide"' if len(value) > 18 else ""
        items.append(f"<div{kind}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>")
    return f'<dl class="facts">{"".join(items)}</dl>'


def card(name: str, body: str, note: str = "") -> str:
    """Return a figure in a frame, with its name above and a note below."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<figure class="card"><figcaption>{escape(name)}</figcaption>{body}{below}</figure>'


def grid(cards: Iterable[str], least_px: int = 310) -> str:
    """Return cards side by side, as many as there is room for."""
    return f'<div class="grid" style="--least:{least_px}px">{"".join(cards)}</div>'


def folded(name: str, body: str, is_open: bool = False) -> str:
    """Return what is seen only when it is asked for."""
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{escape(name)}</summary>{body}</details>"
