"""A report as Markdown and as one HTML file that needs nothing else: no script, no network, images inside."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from decad.lab.canvas import save

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 72rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; max-width: 8rem; }
td:first-child, th:first-child { padding-left: 0; }
img { max-width: 100%; height: auto; }
.scroll img { max-width: max(100%, 44rem); }
pre { overflow-x: auto; background: #f5f5f5; padding: .7rem; font-size: .8rem; }
"""
_IMAGE = re.compile(r'<p><img src="([^"]+)" alt="([^"]*)"\s*/?></p>')


def write_report(directory: Path, title: str, text: str, figures: Mapping[str, Figure]) -> None:
    """report.md, report.html and a PNG and an SVG of each of ``figures``, which ``text`` shows as NAME.png."""
    for name, made in figures.items():
        save(made, directory, name)
    (directory / "report.md").write_text(text, encoding="utf-8")
    (directory / "report.html").write_text(as_html(title, text, directory), encoding="utf-8")


def as_html(title: str, text: str, images: Path) -> str:
    """``text``, Markdown, as a whole page; the pictures NAME.png in it are taken from NAME.svg in ``images``."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = _IMAGE.sub(lambda found: _inside(images, found[1], found[2]), body)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _inside(images: Path, name: str, alt: str) -> str:
    data = base64.b64encode((images / name).with_suffix(".svg").read_bytes()).decode()
    return f'<div class="scroll"><img src="data:image/svg+xml;base64,{data}" alt="{alt}"></div>'
