"""A self-contained HTML page of text, tables and pictures, which loads nothing from anywhere."""

import base64
import html
import io
import os
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from vod2.atomic import replacing

_STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #1b1f24; --soft: #5b6470; --line: #d9dde3; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --card: #1d2127; --ink: #e8eaed; --soft: #a2abb7; --line: #353b44; }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.1rem 1rem 2rem; }
h1 { font-size: 1.35rem; overflow-wrap: anywhere; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .4rem 1rem 1rem; margin: 1rem 0;
}
h2 { font-size: 1rem; }
p { max-width: 60rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td:not(:first-child), th:not(:first-child) { text-align: right; }
td:last-child { padding-right: 0; }
pre { overflow-x: auto; background: var(--page); padding: .6rem; border-radius: 6px; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; background: #fff; border-radius: 6px; }
figcaption { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
"""


class Page:
    """Collects the parts of a page, in their order; all text is taken as text, not as HTML.

    Example:
        >>> page = Page("Foxes & hounds")
        >>> page.section("Counts")
        >>> page.table(["", "train"], [["fox", 12]])
        >>> "<h1>Foxes &amp; hounds</h1>" in page.html(), "<td>12</td>" in page.html()
        (True, True)
    """

    def __init__(self, title: str) -> None:
        self._title = html.escape(title)
        self._parts: list[str] = []

    def section(self, heading: str) -> None:
        """Begin a section."""
        closed = "</section>" if self._parts else ""
        self._parts.append(f"{closed}<section><h2>{html.escape(heading)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Lines as they stand."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; its first column has names, the others have numbers."""
        lines = [_row("th", headers), *(_row("td", row) for row in rows)]
        self._parts.append(f'<div class="scroll"><table>{"".join(lines)}</table></div>')

    def figure(self, figure: Figure, description: str) -> None:
        """A chart, as scalable graphics.

        Args:
            description: for who cannot see it.
        """
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        self._parts.append(_figure("image/svg+xml", buffer.getvalue(), description, caption=""))

    def pictures(self, pictures: Sequence[tuple[np.ndarray, str]]) -> None:
        """Images (H, W, 3) uint8 BGR with a caption each, beside each other."""
        shown = []
        for image, caption in pictures:
            encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
            shown.append(_figure("image/jpeg", encoded.tobytes(), caption, caption))
        self._parts.append(f'<div class="pictures">{"".join(shown)}</div>')

    def html(self) -> str:
        """The whole page."""
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        closed = "</section>" if self._parts else ""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<link rel="icon" href="data:,">\n'
            f"<title>{self._title}</title>\n<style>{_STYLE}</style>\n</head>\n"
            f"<body><main><h1>{self._title}</h1>\n" + "\n".join([*self._parts, closed]) + "\n</main></body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike) -> None:
        """Write the page; a file that is there is replaced."""
        with replacing(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def _row(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def _figure(kind: str, data: bytes, description: str, caption: str) -> str:
    source = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{html.escape(description)}">{below}</figure>'
