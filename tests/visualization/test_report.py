"""A report in a real browser, and what it is made of."""

import base64
import io
import json
import re
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from helpers.browser import Browser, missing
from helpers.videos import write_video
from vod2.d2 import Boxes, Instances
from vod2.errors import VideoError
from vod2.video import VideoWriter
from vod2.video import browser as browser_video
from vod2.visualization import ReportWriter, write_report
from vod2.visualization.report_tracks import build_tracks

NAMES = ["fox", "</script><b>&\"owl'</b> {{data}}"]
LENGTH, SIZE = 50, (160, 90)


def found(*rows, tracks=None):
    """Instances of rows (x1, y1, x2, y2, score, class)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    instances = Instances(SIZE[::-1], pred_boxes=Boxes(table[:, :4].float()))
    instances.scores, instances.pred_classes = table[:, 4].float(), table[:, 5].long()
    if tracks is not None:
        instances.track_ids = torch.tensor(tracks)
    return instances


def frames():
    """A video that shows the number of its frame as its brightness, 5 levels a frame."""
    return [np.full((SIZE[1], SIZE[0], 3), 5 * i, np.uint8) for i in range(LENGTH)]


def fox(i, score=0.9):
    return (20 + i, 30, 60 + i, 70, score, 0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A fox that moves right; from frame 25 on an unsure owl. The baseline loses the fox in every second frame."""
    detections = {i: found(fox(i), *([(100, 10, 130, 40, 0.6, 1)] if i >= 25 else [])) for i in range(LENGTH)}
    baseline = {i: found(fox(i, 0.8 if i % 2 else 0.3)) for i in range(LENGTH)}
    path = tmp_path_factory.mktemp("report") / "page.html"
    title = "<i>clip</i> & {{video}}.mp4"
    write_report(path, frames(), detections, fps=10, class_names=NAMES, baseline=baseline, title=title)
    return path


@pytest.fixture(scope="module")
def browser():
    if reason := missing():
        pytest.skip(reason)
    with Browser() as browser:
        yield browser


@pytest.fixture
def opened(browser, page):
    browser.open(page.as_uri())
    browser.wait("return video.readyState >= 2 && !video.seeking")
    browser.console()
    return browser


def drawn(browser):
    """Number of pixels of the canvas that are not transparent."""
    return browser.run(
        "const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "let count = 0; for (let i = 3; i < pixels.length; i += 4) count += pixels[i] > 0; return count"
    )


def jump(browser, frame):
    browser.run("go(arguments[0])", frame)
    browser.wait("return current === arguments[0] && !video.seeking", frame)


def tick(browser, selector):
    """Click an element where the mouse would."""
    place = browser.run(
        "const item = document.querySelector(arguments[0]); item.scrollIntoView({block: 'center'});"
        "const area = item.getBoundingClientRect(); return [area.x + area.width / 2, area.y + area.height / 2]",
        selector,
    )
    browser.click(*place)


def test_the_picture_and_the_boxes_are_of_the_same_frame(opened):
    for frame in (0, 7, 49, 26):
        jump(opened, frame)
        level, edge = opened.run(
            "const copy = new OffscreenCanvas(160, 90).getContext('2d'); copy.drawImage(video, 0, 0, 160, 90);"
            "const scale = canvas.width / 160, pen = canvas.getContext('2d');"
            "const box = pen.getImageData((20 + current) * scale, 50 * scale, 1, 1).data;"
            "return [copy.getImageData(5, 85, 1, 1).data[0], Array.from(box)]"
        )
        assert abs(level - 5 * frame) <= 4
        assert edge[3] == 255
        assert opened.run("return readout.textContent").startswith(f"Frame {frame} of 49")


def test_playing_goes_on_and_stops_at_the_end(opened):
    jump(opened, 40)
    tick(opened, "#play")
    opened.wait("return current > 43 && !video.paused")
    assert opened.run("return play.textContent") == "Pause"
    opened.wait("return video.ended && current === 49")
    assert opened.run("return play.textContent") == "Play"


def test_a_click_on_the_timeline_jumps(opened):
    x, y, width = opened.run(
        "const area = document.querySelector('.plot').getBoundingClientRect();"
        "return [area.x, area.y + area.height / 2, area.width]"
    )
    opened.click(x + width * 30.5 / LENGTH, y)
    opened.wait("return current === 30")
    assert opened.run("return ruler.getAttribute('aria-valuenow')") == "30"
    assert opened.run("return document.querySelectorAll('.lane.chosen').length") == 1


def test_the_button_of_an_object_jumps_to_its_first_frame(opened):
    tick(opened, ".lane:nth-child(2) button")
    opened.wait("return current === 25")


def test_keys_play_and_step(opened):
    opened.press("\ue014")
    opened.wait("return current === 1")
    opened.press("\ue010")
    opened.wait("return current === 49")
    opened.press("\ue012")
    opened.wait("return current === 48")
    opened.press("\ue011")
    opened.wait("return current === 0")
    opened.press(" ")
    opened.wait("return !video.paused && current > 1")
    opened.press(" ")
    opened.wait("return video.paused")


def test_toggles_hide_boxes_and_lanes(opened):
    jump(opened, 30)
    assert opened.run("return canvas.getAttribute('aria-label')").startswith("Frame 30: fox 1 0.90, ")
    everything = drawn(opened)
    tick(opened, "#show-baseline")
    without_baseline = drawn(opened)
    assert 0 < without_baseline <= everything
    tick(opened, "#classes label:nth-child(2) input")
    fox_only = drawn(opened)
    assert 0 < fox_only < without_baseline
    assert opened.run("return lanes.filter(lane => !lane.row.hidden).length") == 1
    tick(opened, "#show-found")
    assert drawn(opened) == 0
    tick(opened, "#show-baseline")
    assert drawn(opened) == 0  # it has a score of 0.3 here
    jump(opened, 31)
    assert drawn(opened) > 0


def test_the_threshold_hides_boxes(opened):
    jump(opened, 30)
    set_to = "threshold.value = arguments[0]; threshold.dispatchEvent(new Event('input'))"
    counts = []
    for score in (0.05, 0.7, 0.95):
        opened.run(set_to, score)
        counts.append(opened.run("return readout.textContent").split(" · ")[-1])
    assert counts == ["2 boxes", "1 box", "0 boxes"]
    assert drawn(opened) == 0
    assert opened.run("return empty.hidden") is False


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_scrolls_sideways_and_nothing_is_complained_about(browser, page, width):
    browser.open(page.as_uri(), width, 844)
    browser.wait("return video.readyState >= 2")
    assert browser.run("return innerWidth") == width
    assert browser.run("const page = document.documentElement; return page.scrollWidth <= page.clientWidth")
    assert browser.run("return canvas.getBoundingClientRect().width") > width / 2
    assert browser.console() == []
    assert (
        browser.run("return performance.getEntriesByType('resource').filter(e => !/^(blob|data)/.test(e.name))") == []
    )


def test_names_with_markup_are_shown_as_they_are(opened):
    assert opened.run("return document.querySelector('h1').textContent") == "<i>clip</i> & {{video}}.mp4"
    texts = opened.run("return [...document.querySelectorAll('#classes .name')].map(name => name.textContent)")
    assert texts == NAMES
    assert opened.run("return document.querySelectorAll('main b, main h1 i').length") == 0


def test_every_control_has_a_name(opened):
    nameless = opened.run(
        "return [...document.querySelectorAll('button, input, select, [role=slider]')].filter(item =>"
        "!(item.getAttribute('aria-label') || item.textContent.trim() || (item.labels && item.labels.length)))"
        ".map(item => item.outerHTML)"
    )
    assert nameless == []


def test_a_video_that_the_browser_cannot_play_leaves_boxes_and_timeline(browser, page, tmp_path):
    text = re.sub(r'(id="video-data">)[^<]+', r"\1AAAA", page.read_text(encoding="utf-8"))
    (tmp_path / "broken.html").write_text(text, encoding="utf-8")
    browser.open((tmp_path / "broken.html").as_uri())
    browser.wait("return !playable && !trouble.hidden")
    browser.press("\ue014")
    browser.wait("return current === 1")
    assert drawn(browser) > 0


def test_without_a_baseline_nothing_speaks_of_it(browser, tmp_path):
    write_report(tmp_path / "page.html", frames()[:3], {1: found(fox(1))}, fps=25)
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("return video.readyState >= 2")
    assert browser.run("return document.getElementById('baseline-row').hidden")
    assert browser.run("return document.getElementById('found-name').textContent") == "Detections"


@pytest.mark.parametrize("format", [1, 2])
def test_the_picture_is_exact_in_the_formats_of_an_ffmpeg_without_h264(browser, monkeypatch, tmp_path, format):
    monkeypatch.setattr(browser_video, "_FORMATS", browser_video._FORMATS[format:])
    steps = [np.full((90, 160, 3), 20 * i, np.uint8) for i in range(12)]
    write_report(tmp_path / "page.html", steps, {}, fps=Fraction(30000, 1001))
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("return video.readyState >= 2")
    assert page_data(tmp_path / "page.html")["type"] == "video/webm"
    for frame in (9, 2, 11, 5):
        jump(browser, frame)
        level = browser.run(
            "const copy = new OffscreenCanvas(160, 90).getContext('2d'); copy.drawImage(video, 0, 0, 160, 90);"
            "return copy.getImageData(5, 85, 1, 1).data[0]"
        )
        assert round(level / 20) == frame


# Pauses, a burst, and two frames that are a millisecond apart.
TIMES = [0.5, 0.54, 0.58, 2.5, 2.51, 2.511, 2.6, 4.1, 4.14, 4.18]


def write_timed_page(path):
    with ReportWriter(path, fps=Fraction(9000, 3680)) as report:
        for i, time in enumerate(TIMES):
            report.write(np.full((90, 160, 3), 20 * i, np.uint8), found(fox(10 * i)), time=time)


def test_the_page_and_its_video_have_the_times_of_the_frames(tmp_path):
    write_timed_page(tmp_path / "page.html")
    expected = [time - TIMES[0] for time in TIMES]
    data = page_data(tmp_path / "page.html")
    assert data["start"] == 0.5
    assert data["times"] == pytest.approx(expected, abs=0.0002)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    embedded = base64.b64decode(re.search(r'id="video-data">([^<]+)', text)[1])
    with av.open(io.BytesIO(embedded)) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(expected, abs=0.0006)


def test_boxes_of_a_variable_rate_are_shown_with_their_frames(browser, tmp_path):
    write_timed_page(tmp_path / "page.html")
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("return video.readyState >= 2")
    for frame in (9, 2, 5, 4, 0, 7):
        jump(browser, frame)
        # The picture may appear a moment after the browser says that it is there.
        browser.wait(
            "const copy = new OffscreenCanvas(160, 90).getContext('2d'); copy.drawImage(video, 0, 0, 160, 90);"
            "const level = copy.getImageData(5, 85, 1, 1).data[0];"
            "return Math.round(level / 20) === arguments[0] && current === arguments[0]",
            frame,
        )
        assert browser.run("return readout.textContent").startswith(f"Frame {frame} of 9 · {TIMES[frame]:.2f} s")
    # While it plays, the pause after frame 2 shows frame 2 with its box.
    jump(browser, 0)
    tick(browser, "#play")
    browser.wait("return video.currentTime > 0.6")
    assert browser.run("return [current, video.currentTime < 1.9]") == [2, True]


@pytest.mark.parametrize("format", [1, 2])
def test_webm_which_has_one_rate_plays_at_the_mean_rate_with_its_times(monkeypatch, tmp_path, format):
    monkeypatch.setattr(browser_video, "_FORMATS", browser_video._FORMATS[format:])
    write_timed_page(tmp_path / "page.html")
    assert page_data(tmp_path / "page.html")["times"] == pytest.approx([0.4089 * i for i in range(10)], abs=0.001)


def test_the_times_of_a_file_come_from_the_file(tmp_path):
    write_video(tmp_path / "v.mp4", frames()[:5], times=[0, 1, 30, 31, 80])
    write_report(tmp_path / "page.html", tmp_path / "v.mp4", {})
    assert page_data(tmp_path / "page.html")["times"] == pytest.approx([0, 0.04, 1.2, 1.24, 3.2], abs=0.0002)
    write_report(tmp_path / "page.html", tmp_path / "v.mp4", {}, fps=10)
    assert page_data(tmp_path / "page.html")["times"] == [0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("detections", [{}, {0: found()}])
def test_a_report_without_detections_opens(browser, tmp_path, detections):
    write_report(tmp_path / "page.html", frames()[:2], detections, fps=25, baseline={})
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("return video.readyState >= 2 && !empty.hidden")
    assert browser.console() == []


def page_data(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1])


def test_a_file_brings_its_rate_and_its_name(tmp_path):
    with VideoWriter(tmp_path / "a&b.mp4", 12.5, SIZE) as video:
        for frame in frames()[:4]:
            video.write(frame)
    write_report(tmp_path / "page.html", tmp_path / "a&b.mp4", {3: found(fox(0))})
    data = page_data(tmp_path / "page.html")
    assert (data["fps"], data["frames"], data["width"], data["height"]) == (12.5, 4, *SIZE)
    assert "<h1>a&amp;b.mp4</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_detections_without_a_frame_and_frames_without_a_rate_are_refused(tmp_path):
    with pytest.raises(ValueError, match="detections of frame 3: the video has frames 0 to 2"):
        write_report(tmp_path / "page.html", frames()[:3], {3: found(fox(0))}, fps=25)
    with pytest.raises(ValueError, match="fps=None"):
        write_report(tmp_path / "page.html", frames()[:3], {})
    with pytest.raises(VideoError, match="at least one frame"):
        write_report(tmp_path / "page.html", [], {}, fps=25)
    assert not (tmp_path / "page.html").exists()


def test_what_was_written_before_an_interruption_is_kept_and_gaps_are_marked(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(KeyboardInterrupt), ReportWriter(path, 25) as report:
        for i, frame in enumerate(frames()[:3]):
            report.write(frame, found(fox(i)), after_gap=i == 2)
        report.note = "the rest is <lost>"
        raise KeyboardInterrupt
    data = page_data(path)
    assert (data["frames"], data["gaps"], data["compared"]) == (3, [2], False)
    assert "the rest is &lt;lost&gt;" in path.read_text(encoding="utf-8")


def test_another_error_leaves_no_page(tmp_path):
    with pytest.raises(ZeroDivisionError), ReportWriter(tmp_path / "page.html", 25) as report:
        report.write(frames()[0], found())
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def curves(tracks):
    return [(track.label, track.name, track.found.frames, track.baseline.frames) for track in tracks]


def test_boxes_are_chained_by_overlap_within_a_class():
    # The fox moves by a quarter of its width a frame: an overlap of 30 / 50 with the frame before.
    detections = {
        0: found((0, 0, 40, 40, 0.9, 0), (100, 0, 140, 40, 0.8, 0)),
        1: found((10, 0, 50, 40, 0.9, 0), (10, 0, 50, 40, 0.3, 1)),
        2: found((20, 0, 60, 40, 0.9, 0), (100, 0, 140, 40, 0.8, 0)),
    }
    assert curves(build_tracks(detections)) == [
        (0, "1", [0, 1, 2], []),
        (0, "2", [0, 2], []),
        (1, "3", [1], []),
    ]


def test_a_long_absence_ends_a_chain():
    box = (0, 0, 40, 40, 0.9, 0)
    assert curves(build_tracks({0: found(box), 6: found(box), 13: found(box)})) == [
        (0, "1", [0, 6], []),
        (0, "2", [13], []),
    ]


def test_track_ids_go_before_overlap():
    detections = {
        0: found((0, 0, 40, 40, 0.9, 0), (100, 0, 140, 40, 0.9, 0), (50, 50, 80, 80, 0.5, 1), tracks=[7, 3, -1]),
        1: found((0, 0, 40, 40, 0.8, 0), (100, 0, 140, 40, 0.9, 0), tracks=[3, 7]),
    }
    assert curves(build_tracks(detections)) == [(0, "7", [0, 1], []), (0, "3", [0, 1], []), (1, "8", [0], [])]


def test_the_baseline_joins_the_object_that_it_overlaps():
    detections = {0: found((0, 0, 40, 40, 0.9, 0)), 1: found((0, 0, 40, 40, 0.9, 0))}
    baseline = {0: found((2, 0, 42, 40, 0.4, 0)), 1: found((2, 0, 42, 40, 0.4, 1))}
    tracks = build_tracks(detections, baseline)
    assert curves(tracks) == [(0, "1", [0, 1], [0]), (1, "2", [], [1])]
    np.testing.assert_allclose(tracks[0].baseline.boxes, [[2, 0, 42, 40]])
    np.testing.assert_allclose(tracks[0].baseline.scores, [0.4])
