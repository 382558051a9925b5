"""Write one document as Markdown and as a single HTML file with its figures inside."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #666; --line: #ddd; --shade: #f6f6f6;
  --mark: #0072b2; --lead: #eef5fa; --edge: #8888; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #181a1b; --faint: #aaa; --line: #3a3d40;
  --shade: #222527; --mark: #6fb7e9; --lead: #1d2a33; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.4rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { margin-top: 1.6rem; }
a { color: var(--mark); }
.lead { font-size: 1.1rem; background: var(--lead); border-left: .3rem solid var(--mark); padding: .7rem 1rem; }
.wide { overflow-x: auto; margin: .8rem 0; scrollbar-width: thin; scrollbar-color: var(--faint) transparent; }
.wide::-webkit-scrollbar { height: .45rem; }
.wide::-webkit-scrollbar-thumb { background: var(--faint); border-radius: .3rem; }
.table { background: linear-gradient(to right, var(--paper) 30%, transparent) left / 3rem 100% local,
  linear-gradient(to left, var(--paper) 30%, transparent) right / 3rem 100% local,
  linear-gradient(to right, var(--edge), transparent) left / 1rem 100%,
  linear-gradient(to left, var(--edge), transparent) right / 1rem 100%; background-repeat: no-repeat; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.name { min-width: 9rem; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; min-width: 34rem; height: auto; display: block; background: #fff; }
figcaption, .note { color: var(--faint); font-size: .88rem; }
code { font-size: .92em; background: var(--shade); padding: 0 .2em; border-radius: .2em; }
pre { background: var(--shade); padding: .6rem; overflow-x: auto; font-size: .82rem; }
pre code { padding: 0; background: none; }
nav ul { columns: 2; padding-left: 1.2rem; }
@media (max-width: 36rem) { nav ul { columns: 1; } body { margin-top: .5rem; } figure img { min-width: 0; } }
@media print { figure img { min-width: 0; } body { max-width: none; } }
"""


@dataclass(frozen=True)
class Lead:
    """The paragraph that has to be read."""

    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph of explanation, in smaller type."""

    text: str


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Table:
    """A table whose first `names` columns are words; the others are numbers, on the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


@dataclass(frozen=True)
class Figure:
    """A PNG beside the report. alt: what it shows, for those who do not see it. caption: how to read it."""

    file: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    text: str


Block = str | Lead | Note | Heading | Table | Figure | Bullets | Code


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """The name that GitHub gives to the heading."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")


@dataclass(frozen=True)
class Document:
    """opening: what stands before the table of contents. Text in backticks is code; nothing else is markup."""

    title: str
    opening: Sequence[Block]
    sections: Sequence[Section]


def to_markdown(document: Document) -> str:
    """Return the document as GitHub's Markdown; figures are links to the files beside it."""
    parts = [f"# {_marked(document.title)}", *map(_markdown_block, document.opening)]
    parts.append("\n".join(f"- [{_marked(one.title)}](#{one.anchor})" for one in document.sections))
    for section in document.sections:
        parts += [f"## {_marked(section.title)}", *map(_markdown_block, section.blocks)]
    return "\n\n".join(parts) + "\n"


def to_html(document: Document, folder: Path) -> str:
    """Return the document as one page that needs nothing else: the figures in `folder` are inside."""
    contents = "".join(f'<li><a href="#{one.anchor}">{_inline(one.title)}</a></li>\n' for one in document.sections)
    body = [f"<h1>{_inline(document.title)}</h1>", *(_html_block(block, folder) for block in document.opening)]
    body.append(f'<nav aria-label="Contents"><ul>\n{contents}</ul></nav>')
    for section in document.sections:
        body.append(f'<h2 id="{section.anchor}">{_inline(section.title)}</h2>')
        body += [_html_block(block, folder) for block in section.blocks]
    page = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(document.title.replace('`', ''))}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{page}\n</body>\n</html>\n"
    )


def _markdown_block(block: Block) -> str:
    match block:
        case str() | Note():
            return _marked(block if isinstance(block, str) else block.text)
        case Lead():
            return f"> {_marked(block.text)}"
        case Heading():
            return f"### {_marked(block.text)}"
        case Bullets():
            return "\n".join(f"- {_marked(item)}" for item in block.items)
        case Code():
            return f"```\n{block.text}\n```"
        case Figure():
            return f"![{_marked(block.alt)}]({block.file})\n\n{_marked(block.caption)}"
        case Table():
            rule = ["---" if place < block.names else "---:" for place in range(len(block.head))]
            lines = [map(_marked, block.head), rule, *(map(_marked, row) for row in block.rows)]
            return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _html_block(block: Block, folder: Path) -> str:
    match block:
        case str():
            return f"<p>{_inline(block)}</p>"
        case Lead():
            return f'<p class="lead">{_inline(block.text)}</p>'
        case Note():
            return f'<p class="note">{_inline(block.text)}</p>'
        case Heading():
            return f"<h3>{_inline(block.text)}</h3>"
        case Bullets():
            return "<ul>\n" + "".join(f"<li>{_inline(item)}</li>\n" for item in block.items) + "</ul>"
        case Code():
            return f"<pre><code>{html.escape(block.text)}</code></pre>"
        case Figure():
            image = base64.b64encode((folder / block.file).read_bytes()).decode()
            return (
                f'<figure><div class="wide"><img src="data:image/png;base64,{image}" alt="{html.escape(block.alt)}">'
                f"</div><figcaption>{_inline(block.caption)}</figcaption></figure>"
            )
        case Table():
            head = "".join(f"<th{_kind(block, place)}>{_inline(cell)}</th>" for place, cell in enumerate(block.head))
            rows = "\n".join(
                "<tr>" + "".join(f"<td{_kind(block, place)}>{_inline(cell)}</td>" for place, cell in enumerate(row))
                + "</tr>"
                for row in block.rows
            )  # fmt: skip
            table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
            return f'<div class="wide table" tabindex="0">{table}</div>'  # which the keyboard can scroll, too


def _kind(table: Table, place: int) -> str:
    return ' class="name"' if place == 0 else ' class="number"' if place >= table.names else ""


def _inline(text: str) -> str:
    """Return text as HTML, with code where backticks are."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _marked(text: str) -> str:
    """Return text as Markdown in which nothing but code is markup."""
    parts = " ".join(text.split()).split("`")
    # A line within a table would end at a bar, in code as well.
    return "".join(
        "`" + part.replace("|", "\\|") + "`"
        if place % 2
        else re.sub(r"([\\*\[\]<>|~]|(?<!\w)_|_(?!\w))", r"\\\1", part)
        for place, part in enumerate(parts)
    )
