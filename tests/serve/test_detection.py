"""The server with a detector: `vod2 serve` from the upload to the report."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from helpers.browser import Browser, missing
from helpers.models import build_detector, tiny_cfg
from helpers.serving import Client, serving
from helpers.videos import moving_frames, write_video
from vod2.commands import serve
from vod2.commands.detect import detectors_of
from vod2.engine import VideoPredictor
from vod2.errors import UserError
from vod2.serve import RESULTS, DetectionServer, JobStore, ServerLimits

LENGTH = 8


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """Of a command line with a tiny detector, whose scores are those of chance."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "tiny.yaml").write_text(tiny_cfg().dump())
    torch.save({"model": build_detector().state_dict()}, folder / "tiny.pth")
    (folder / "names.txt").write_text("fox\nowl\nelf\ncat\ndog\n")
    keys = ["--class-names", str(folder / "names.txt"), "--opts", "MODEL.WEIGHTS", str(folder / "tiny.pth")]
    return ["--port", "0", "--confidence-threshold", "0.1", "--config-file", str(folder / "tiny.yaml"), *keys]


@pytest.fixture(scope="module")
def detect(words):
    """What the server's worker calls."""
    args = serve.parse_args(["--max-frames", "20", *words])
    args.compare, args.show_relations, args.output = [], None, None
    detector = detectors_of(args)[0]
    return serve.UploadDetector(args, detector, VideoPredictor(detector.cfg))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "in.mp4", moving_frames(LENGTH))


@pytest.fixture
def client(tmp_path, detect) -> Client:
    with serving(tmp_path, detect) as (_, client):
        yield client


def test_an_upload_becomes_what_vod2_detect_writes(client, video, tmp_path, capsys):
    record = client.wait(client.upload("cat.mp4", video.read_bytes()).json()["id"], "done", "failed")
    assert (record["state"], record["frames"], record["total"], record["message"]) == ("done", LENGTH, LENGTH, "")
    found = {kind: client.ask("GET", f"/jobs/{record['id']}/{kind}").body for kind in RESULTS}
    detections = json.loads(found["json"])
    assert detections["video"] == "cat.mp4" and len(detections["frames"]) == LENGTH
    boxes = sum(len(frame["detections"]) for frame in detections["frames"])
    assert boxes and len(found["mot"].splitlines()) == boxes
    assert found["output"][4:8] == b"ftyp" and b"cat.mp4" in found["report"]
    assert not any(str(tmp_path).encode() in content for content in found.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda video: b"no video", "expected one of MP4"),
        (lambda video: b"ffconcat version 1.0\nfile /etc/passwd\n", "expected one of MP4"),
        (lambda video: video[: len(video) // 3], "'cat.mp4'"),
    ],
)
def test_a_broken_video_is_one_sentence_without_a_path_of_the_server(client, video, tmp_path, content, said):
    job = client.upload("cat.mp4", content(video.read_bytes())).json()["id"]
    record = client.wait(job, "failed")
    assert said in record["message"] and str(tmp_path) not in record["message"] and job not in record["message"]
    assert len(record["message"].splitlines()) == 1


def test_a_damaged_video_is_detected_and_its_owner_is_told(client, video, tmp_path):
    path = write_video(tmp_path / "in.ts", moving_frames(LENGTH), gop=2, b_frames=0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.unlink()
    record = client.wait(client.upload("<b>.ts", bytes(content)).json()["id"], "done", "failed")
    assert record["state"] == "done" and "'<b>.ts' is damaged" in record["message"]
    report = client.ask("GET", f"/jobs/{record['id']}/report").body
    assert b"<b>.ts" not in report and b"&lt;b&gt;.ts" in report and str(tmp_path).encode() not in report


def test_a_video_that_is_too_long_is_refused(client, tmp_path):
    path = write_video(tmp_path / "long.mp4", moving_frames(21))
    content = path.read_bytes()
    path.unlink()
    record = client.wait(client.upload("long.mp4", content).json()["id"], "failed", "done")
    assert record["message"] == "'long.mp4' has more than 20 frames: cut it, and try again"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-pixels", "0"], "--max-pixels 0"),
        (["--queue", "0"], "--queue 0"),
        (["--keep", "nan"], "--keep nan"),
        (["--max-size", "-1"], "--max-size -1"),
        (["--link", "1"], "--link 1"),
    ],
)
def test_an_option_that_is_wrong_is_told(words, more, said, capsys):
    with pytest.raises(SystemExit):
        serve.parse_args([*more, *words])
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_and_a_folder_that_is_none_are_one_sentence(words, tmp_path):
    store = JobStore(tmp_path, ServerLimits())
    with serve.open_server(serve.parse_args(words), store, "tiny") as first:
        args = serve.parse_args(["--queue", "1", *words])
        args.port = first.port
        with pytest.raises(UserError, match=f"--port {first.port}.*in use.*--port 0"):
            serve.open_server(args, store, "tiny")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--work .*give another"), serve.work_folder(str(tmp_path / "file")):
        pass


def test_the_folder_is_private_and_what_another_server_left_is_told(tmp_path, capsys):
    (tmp_path / "vod2-serve-old").mkdir()
    with serve.work_folder(str(tmp_path)) as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "x").write_text("")
    assert not folder.exists() and "vod2-serve-old" in capsys.readouterr().err


def test_only_this_machine_is_served_without_a_token(words, tmp_path):
    store = JobStore(tmp_path, ServerLimits())
    for options, has_token in (
        ([], False),
        (["--token"], True),
        (["--host", "0.0.0.0"], True),
        (["--host", "::1"], False),
    ):
        try:
            server = serve.open_server(serve.parse_args([*options, *words]), store, "tiny")
        except UserError:
            assert "::1" in options  # a machine without IPv6
            continue
        with server:
            address = serve.address_of(server, options[-1] if "--host" in options else "127.0.0.1")
            assert (server.access.token is not None) == has_token == ("?token=" in address)
            assert str(server.port) in address and ("[::1]" in address) == ("::1" in options)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_on_a_signal_and_deletes_everything(words, video, tmp_path, sent, code, ctrl_c):
    command = [sys.executable, "-m", "vod2", "serve", "--work", str(tmp_path), *words]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            address = process.stdout.readline().strip()
            client = Client(int(address.rsplit(":")[-1].strip("/")))
            client.wait(client.upload("cat.mp4", video.read_bytes()).json()["id"], "done")
            client.upload("cat.mp4", video.read_bytes())  # it is at work
            process.send_signal(sent)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


class LockThatIsInterrupted(threading.Condition):
    """A signal comes right after the lock has been acquired, before the block that would release it has begun."""

    sent: int | None = None

    def __enter__(self):
        entered = super().__enter__()
        if self.sent is not None:
            number, self.sent = self.sent, None
            signal.raise_signal(number)
        return entered


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_lock_behind(tmp_path, sent, code):
    store = JobStore(tmp_path, ServerLimits())
    store._changed = LockThatIsInterrupted()
    before = signal.getsignal(sent)
    with DetectionServer(("127.0.0.1", 0), store) as server:
        with pytest.raises(SystemExit) as ended, serve.ended_by_signals(server):
            store._changed.sent = sent
            server.serve_forever(poll_interval=0.01)
    assert ended.value.code == code and signal.getsignal(sent) is before
    with ThreadPoolExecutor(1) as another:
        assert another.submit(store._changed.acquire, timeout=5).result()


@pytest.mark.slow
def test_in_a_browser_a_video_is_uploaded_and_its_report_seen(tmp_path, detect, video):
    if reason := missing():
        pytest.skip(reason)
    with serving(tmp_path, detect, needs_token=True, names=("localhost",)) as (server, client), Browser() as browser:
        browser.open(f"http://127.0.0.1:{server.port}/?token={server.access.token}")
        browser.wait("return document.getElementById('about').textContent.includes('MiB')")
        assert browser.run("return location.search + document.cookie") == ""
        content = list(video.read_bytes())
        name = "<img src=x onerror=document.title='broken'>.mp4"
        browser.run(
            "const list = new DataTransfer(); list.items.add(new File([new Uint8Array(arguments[0])], arguments[1]));"
            "const file = document.getElementById('file'); file.files = list.files; file.onchange()",
            content,
            name,
        )
        link = browser.wait(
            "const link = document.querySelector('a.main'); return link && !link.hidden ? link.href : ''", seconds=60
        )
        shown = browser.run("return document.querySelector('.job .name').textContent + document.title")
        assert shown == name + "vod2: objects in videos" and not browser.run("return document.images.length")
        assert browser.run("return document.querySelector('.job p:not(.name)').textContent") == f"done: {LENGTH} frames"
        assert browser.console() == []
        browser.open(link)
        browser.wait("return video.readyState >= 2 && !video.seeking")
        assert browser.run("return document.querySelector('h1').textContent") == name
        assert browser.run("return self.origin") == "null"
        # In its sandbox a script of the report could not reach the server.
        browser.run(
            "self.reached = 'no answer yet'; fetch('/api/jobs').then(() => reached = 'yes', () => reached = 'no')"
        )
        assert browser.wait("return reached !== 'no answer yet' && reached") == "no"


@pytest.mark.slow
def test_the_page_is_used_by_keyboard_in_a_browser(tmp_path):
    """Delete and cancel, and where the focus is afterwards."""
    if reason := missing():
        pytest.skip(reason)
    with serving(tmp_path) as (server, client), Browser() as browser:
        browser.open(f"http://127.0.0.1:{server.port}/")
        browser.run("add([new File(['x'], 'a.mp4')])")
        browser.wait("return document.querySelector('.job') && !document.querySelector('a.main').hidden")
        # A link of another site is followed without the cookie, which must not be replaced by a new one.
        browser.open(f"data:text/html,<a href='http://127.0.0.1:{server.port}/'>vod2</a>")
        browser.run("document.querySelector('a').click()")
        browser.wait("return location.protocol === 'http:' && document.querySelector('.job')")
        browser.run("window.confirm = () => true; document.querySelector('.job button:last-child').focus()")
        browser.press("\ue007")
        browser.wait("return !document.querySelector('.job') && document.activeElement.id === 'file'")
        assert list(tmp_path.iterdir()) == []


def test_a_program_uploads_with_the_token(tmp_path, words):
    """As the document shows it, with a library that knows nothing of the server."""
    with serving(tmp_path, needs_token=True) as (server, client):
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/api/jobs?name=a", b"video", method="PUT")
        request.add_header("Authorization", f"Bearer {server.access.token}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert json.load(opener.open(request, timeout=20))["name"] == "a"
        client.wait(client.jobs()[0]["id"], "done")
