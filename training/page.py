"""The parts of a page that needs no network: its frame, its style, sections, tables and pictures.

What is called text is escaped here; what is called HTML is taken as it is. Knows nothing of what a page shows.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from string import Template


def write_page(title: str, parts: Iterable[str]) -> str:
    """Put the parts into a whole page; empty ones are left out."""
    return _PAGE.substitute(title=escape(title), style=_STYLE, body="\n".join(filter(None, parts)))


def section(title: str, body: str) -> str:
    """Write a heading and what stands below it, which is HTML."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """Write a paragraph."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def bullets(sentences: Iterable[str]) -> str:
    """Write a list."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def notice(title: str, sentences: Sequence[str]) -> str:
    """Write sentences that nobody should miss; nothing where there are none."""
    return f"<section class=warnings><h2>{escape(title)}</h2>{bullets(sentences)}</section>" if sentences else ""


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Write figures large: the name of each, its value, and a note."""
    cells = (
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><small>{escape(note)}</small></dd></div>"
        for name, value, note in rows
    )
    return f"<dl class=tiles>{''.join(cells)}</dl>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, prose: bool = False) -> str:
    """Write a table whose first column names the row; without headings it is one of names and values.

    The cells of a table of `prose` go over several lines, those of others are figures and do not.
    """
    kind, head = "facts", ""
    if headings:
        kind = "prose" if prose else "figures"
        head = "<thead><tr>" + "".join(f"<th>{escape(name)}</th>" for name in headings) + "</tr></thead>"
    body = "".join(
        f"<tr><th scope=row><bdi>{escape(first)}</bdi></th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<div class=wide><table class={kind}>{head}<tbody>{body}</tbody></table></div>"


def folded(summary: str, body: str) -> str:
    """Hide HTML behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def image(data: bytes, alt: str) -> str:
    """Write a picture of a PNG's or a JPEG's bytes, and the text for those who do not see it."""
    media = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return f'<img src="data:{media};base64,{base64.b64encode(data).decode()}" alt="{escape(alt)}">'


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5f6b78; --line: #e1e5ea; --page: #fff; --soft: #f5f7f9;
  --accent: #2f6db5; --wrong: #b0500f; --warn: #fff6e6; --warn-line: #e3a13a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dde3ea; --muted: #98a4b3; --line: #2c343e; --page: #14181d; --soft: #1c2229;
    --accent: #7fb0e8; --wrong: #eda35c; --warn: #2b2413; --warn-line: #a8792b; }
  .chart img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 760px; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .4rem; }
h3 { font-size: 1rem; line-height: 1.3; margin: 1.4rem 0 .6rem; }
section { margin-top: 2.6rem; }
p { margin: 0 0 .8rem; }
section > p { color: var(--muted); font-size: .94rem; }
.lead { font-size: 1.08rem; }
ul { margin: 0; padding-left: 1.2rem; }
li + li { margin-top: .4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: .7rem; margin: 1.6rem 0 0; }
.tiles div { background: var(--soft); border: 1px solid var(--line); border-radius: 10px; padding: .7rem .85rem; }
.tiles dt { color: var(--muted); font-size: .82rem; }
.tiles dd { margin: 0; }
.tiles b { display: block; font-size: 1.55rem; font-weight: 600; line-height: 1.35; }
small { display: block; color: var(--muted); font-size: .8rem; line-height: 1.35; }
.warnings { background: var(--warn); border: 1px solid var(--warn-line); border-radius: 10px; padding: .9rem 1.1rem; }
.chart, .photo { overflow-x: auto; }
.chart img { min-width: 520px; }
.chart img, .photo img { display: block; width: 100%; height: auto; }
.photo img { border-radius: 6px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 1.2rem .8rem; }
.gallery.dense { grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 1rem .8rem; }
.gallery figure { margin: 0; font-size: .86rem; line-height: 1.35; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--soft);
  border-radius: 6px; margin-bottom: .35rem; }
.gallery figcaption > span { display: block; padding-left: 1.3em; text-indent: -1.3em; }
.faint { color: var(--muted); }
.right { color: var(--accent); }
.wrong { color: var(--wrong); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .38rem .7rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--muted); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; }
.facts th { width: 30%; min-width: 7rem; color: var(--muted); }
.figures td, .figures thead th + th { text-align: right; padding-right: 0; padding-left: .9rem; white-space: nowrap; }
.figures tbody th, .prose tbody th { min-width: 8rem; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .5rem; }
@media print { body { max-width: none; } h2, section > p { break-after: avoid; }
  .chart, .photo, figure, tr { break-inside: avoid; } }
"""

# Nothing is fetched and nothing runs: the policy says so to the browser too.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")
