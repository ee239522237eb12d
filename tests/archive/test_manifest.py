"""What the manifest keeps, and what becomes of it after a kill."""

import os
import sqlite3

import pytest

from vod2.archive import Counts, Manifest, Scan, Signature, read_records, video_id
from vod2.archive.tasks import Done
from vod2.errors import UserError

A, B, C = "/videos/a.mp4", "/videos/b.mp4", "/videos/c.mp4"


@pytest.fixture
def manifest(tmp_path):
    manifest = Manifest(tmp_path / "deep" / "manifest.sqlite")
    manifest.add([(A, Signature(10, 1)), (B, Signature(30, 1)), (C, Signature(20, 1))])
    yield manifest
    manifest.close()


def finish(manifest, path, sha="0a"):
    manifest.start(video_id(path), "here:1")
    manifest.finish(video_id(path), Done(4, sha, Signature(10, 1)), f"results/{path}", 1.23456, "here:2")


def paths(videos):
    return [video.path for video in videos]


def test_the_largest_videos_come_first_and_a_few_at_a_time(manifest):
    first = manifest.pending(None, limit=2)
    assert paths(first) == [B, C]
    assert paths(manifest.pending(first[-1], limit=2)) == [A]
    assert manifest.pending(manifest.pending(first[-1], limit=2)[-1], limit=2) == []


def test_videos_of_one_size_all_come_once(tmp_path):
    manifest = Manifest(":memory:")
    manifest.add([(f"/{number}.mp4", Signature(5, 1)) for number in range(7)])
    seen, latest = [], None
    while batch := manifest.pending(latest, limit=3):
        seen += paths(batch)
        latest = batch[-1]
    assert seen == [f"/{number}.mp4" for number in range(7)]


def test_a_done_video_has_its_numbers(manifest):
    finish(manifest, A)
    (row,) = manifest.rows("done")
    assert (row["path"], row["attempts"], row["frames"], row["seconds"]) == (A, 1, 4, 1.235)
    assert (row["sha256"], row["worker"], row["result"]) == ("0a", "here:2", f"results/{A}")
    assert manifest.counts() == Counts(pending=2, done=1)


def test_a_second_scan_finds_what_is_new_and_what_has_changed(manifest):
    finish(manifest, A)
    found = [(A, Signature(10, 2)), (B, Signature(30, 1)), ("/videos/d.mp4", Signature(1, 1))]
    assert manifest.add(found) == Scan(new=1, changed=1, same=1)
    assert manifest.counts() == Counts(pending=4)
    assert [(video.path, video.size) for video in manifest.pending(None, 9)][-2:] == [(A, 10), ("/videos/d.mp4", 1)]
    assert manifest.add(found) == Scan(same=3)


def test_a_failed_video_is_tried_again_only_if_it_has_changed_or_that_is_asked_for(manifest):
    for path in (A, B):
        manifest.start(video_id(path), "here:1")
        manifest.fail(video_id(path), "broken", "here:1")
    manifest.add([(A, Signature(10, 1)), (B, Signature(31, 1))])
    assert manifest.counts() == Counts(pending=2, failed=1)
    assert manifest.retry_failed() == 1 and manifest.counts() == Counts(pending=3)


def test_what_was_running_at_a_kill_is_pending_and_has_not_failed(tmp_path):
    path = tmp_path / "manifest.sqlite"
    killed = Manifest(path)
    killed.add([(A, Signature(10, 1)), (B, Signature(30, 1))])
    finish(killed, A)
    killed.start(video_id(B), "here:1")
    again = Manifest(path)  # the first has never been closed
    assert again.counts() == Counts(running=1, done=1)
    assert again.recover() == 1
    assert paths(again.pending(None, 9)) == [B] and again.again(video_id(B), "bad luck") == 1


def test_results_that_are_gone_are_made_again(manifest):
    finish(manifest, A)
    manifest.forget_results([video_id(A)])
    assert manifest.counts() == Counts(pending=3)
    assert manifest.pending(None, 9)[-1].path == A


def test_other_settings_are_refused_and_named_but_new_keys_are_not(manifest):
    manifest.keep_settings({"--format": "jsonl", "RADIUS": 18})
    manifest.keep_settings({"--format": "jsonl", "RADIUS": 18, "NEW": (1, 2)})
    manifest.keep_settings({"--format": "jsonl", "NEW": (1, 2)})
    with pytest.raises(UserError, match=r"other settings: RADIUS \(18 before, now 3\); give another --output"):
        manifest.keep_settings({"RADIUS": 3})


def test_a_name_that_is_no_text_is_a_failed_video(manifest):
    manifest.add([(os.fsdecode(b"/videos/\xff.mp4"), Signature(1, 1))])
    (row,) = manifest.rows("failed")
    assert row["error"] == r"the name '/videos/\\udcff.mp4' is not UTF-8: rename the file"


def test_a_file_that_is_no_manifest_is_named(tmp_path):
    (tmp_path / "m.sqlite").write_text("no database at all, but long enough to be looked at" * 40)
    with pytest.raises(UserError, match="m.sqlite is no manifest"):
        Manifest(tmp_path / "m.sqlite")


def test_a_scan_that_is_interrupted_leaves_the_manifest_as_it_was(manifest):
    def found():
        yield "/videos/new.mp4", Signature(1, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manifest.add(found())
    assert manifest.counts() == Counts(pending=3)


def test_others_may_read_while_a_video_is_being_recorded(manifest):
    manifest.start(video_id(A), "here:1")
    other = sqlite3.connect(f"file:{manifest.path}?mode=ro", uri=True)
    assert other.execute("SELECT COUNT(*) FROM videos WHERE status = 'running'").fetchone() == (1,)
    other.close()


def test_a_file_that_is_no_manifest_is_let_go_of(tmp_path):
    path = tmp_path / "manifest.sqlite"
    path.write_bytes(b"7" * 5000)
    with pytest.raises(UserError, match=r"manifest\.sqlite is no manifest"):
        Manifest(path)
    path.unlink()
    Manifest(path).close()


def test_a_damaged_page_is_the_users_to_know(manifest, tmp_path):
    manifest.close()
    content = bytearray((tmp_path / "deep" / "manifest.sqlite").read_bytes())
    page = 4096
    content[page:] = b"\xff" * (len(content) - page)  # all but the first, which has the names of the tables
    (tmp_path / "damaged.sqlite").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.sqlite (cannot be used|is no manifest) \("):
        Manifest(tmp_path / "damaged.sqlite").counts()


def test_damaged_bytes_in_the_name_of_a_table_are_the_users_to_know(manifest, tmp_path):
    manifest.close()
    content = (tmp_path / "deep" / "manifest.sqlite").read_bytes().replace(b"videos_in_order", b"videos\x9fin\x9forder")
    (tmp_path / "damaged.sqlite").write_bytes(content.replace(b"CREATE INDEX", b"CREATE IN\x9fEX"))
    with pytest.raises(UserError, match=r"damaged\.sqlite is no manifest"):
        Manifest(tmp_path / "damaged.sqlite")


@pytest.mark.parametrize("column", ["path = x'00ff'", "id = x'00ff'"])
def test_a_name_that_is_no_text_is_told(manifest, column):
    with sqlite3.connect(manifest.path) as other:
        other.execute(f"UPDATE videos SET {column} WHERE number = 1")
    with pytest.raises(UserError, match=r"manifest\.sqlite cannot be used \(a path is no text\): restore a copy"):
        manifest.pending(None, limit=5)


@pytest.mark.parametrize("value", ["{", "x'00'"])
def test_a_setting_that_is_no_json_is_told(manifest, value):
    manifest.keep_settings({"weights": "a"})
    with sqlite3.connect(manifest.path) as other:
        other.execute(f"UPDATE settings SET value = {value if value.startswith('x') else repr(value)}")
    with pytest.raises(UserError, match=r"manifest\.sqlite cannot be used"):
        manifest.keep_settings({"weights": "a"})


@pytest.mark.parametrize("line", ["[]", "{", '{"video": "a"}', "[" * 20_000])
def test_a_line_that_is_no_record_is_told(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: no record of a frame"):
        list(read_records(tmp_path / "a.jsonl"))
