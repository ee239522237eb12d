"""Pages of text, tables and pictures."""

import base64
import re

import cv2
import numpy as np
from matplotlib.figure import Figure

from vod2.visualization import Page


def test_all_text_is_text(tmp_path):
    bad = '<script>alert("1")</script>'
    page = Page(bad)
    page.section(bad)
    page.text(bad)
    page.code(bad)
    page.table([bad], [[bad]])
    page.pictures([(np.zeros((4, 6, 3), np.uint8), f'"onload="{bad}')])
    page.figure(Figure(), bad)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") >= 8
    assert '"onload=' not in text
    assert "default-src 'none'" in text and not re.search(r'(src|href)="(?!data:)', text)


def test_sections_are_closed_and_hold_what_follows_them():
    page = Page("a")
    page.section("one")
    page.text("first")
    page.section("two")
    page.text("second")
    text = page.html()
    assert text.count("<section>") == text.count("</section>") == 2
    assert text.index("first") < text.index("</section>") < text.index("two") < text.index("second")


def test_pictures_are_what_was_given():
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 4)
    page = Page("a")
    page.section("b")
    page.pictures([(image, "a frame")])
    encoded = re.search(r'src="data:image/jpeg;base64,([^"]+)" alt="a frame"', page.html())[1]
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == image.shape and np.abs(shown.astype(int) - image).mean() < 5
