"""Who does what next: retries, segments, stopping; with workers that need no processes."""

from collections import Counter
from pathlib import Path

import pytest

from helpers.archives import FakeWorkers
from vod2.archive import Coordinator, Counts, Cutting, Layout, Manifest, Reach, Signature
from vod2.archive.tasks import Broken, Damaged, Done, Failed, JoinTask, Long, PartDone, SegmentTask, VideoTask

DONE = Done(4, "0a", Signature(1, 1), seconds=2.0)


@pytest.fixture
def manifest():
    manifest = Manifest(":memory:")
    manifest.add([(f"/{name}.mp4", Signature(size, 1)) for size, name in enumerate("abc")])
    return manifest


def coordinate(manifest, answer, tmp_path, count=2, **options):
    workers = FakeWorkers(answer, count)
    failures = []
    options = {"changed": lambda progress, failure: failures.append(failure), **options}
    coordinator = Coordinator(manifest, workers, Layout(tmp_path, "jsonl", "run"), **options)
    coordinator.run()
    return coordinator, workers.tasks, [failure for failure in failures if failure]


def names(tasks):
    return [Path(task.path).stem for task in tasks]


def test_every_video_is_done_once_the_largest_first(manifest, tmp_path):
    coordinator, tasks, _ = coordinate(manifest, lambda task: DONE, tmp_path)
    assert names(tasks) == ["c", "b", "a"]
    assert manifest.counts() == Counts(done=3)
    assert (coordinator.progress.done, coordinator.progress.frames) == (3, 12)
    row = next(manifest.rows("done"))
    assert row["result"] == f"results/{row['id'][:2]}/{row['id']}.jsonl" and row["seconds"] == 2.0


def test_a_failure_that_may_pass_is_tried_again_as_often_as_that_is_allowed(manifest, tmp_path):
    seen = Counter()

    def answer(task):
        seen[task.path] += 1
        return DONE if seen[task.path] > 2 else Failed("its worker died (signal 9)")

    coordinate(manifest, answer, tmp_path, retries=2)
    assert manifest.counts() == Counts(done=3) and set(seen.values()) == {3}
    assert {(row["failures"], row["error"]) for row in manifest.rows("done")} == {(2, None)}


def test_a_failure_that_does_not_pass_is_given_up_with_its_reason(manifest, tmp_path):
    _, tasks, failures = coordinate(
        manifest, lambda task: Failed("out of luck") if task.path == "/b.mp4" else DONE, tmp_path, retries=1
    )
    assert manifest.counts() == Counts(done=2, failed=1) and names(tasks).count("b") == 2
    (row,) = manifest.rows("failed")
    assert row["error"] == "failed 2 times, at last: out of luck"
    assert failures == ["/b.mp4: failed 2 times, at last: out of luck"]


def test_a_broken_video_is_not_tried_again(manifest, tmp_path):
    _, tasks, failures = coordinate(manifest, lambda task: Broken("'/a.mp4' is torn"), tmp_path, retries=5)
    assert len(tasks) == 3 and manifest.counts() == Counts(failed=3)
    assert failures == ["/c.mp4: '/a.mp4' is torn", "/b.mp4: '/a.mp4' is torn", "'/a.mp4' is torn"]


def test_no_more_videos_are_held_than_the_workers_need(tmp_path):
    manifest = Manifest(":memory:")
    manifest.add([(f"/{number}.mp4", Signature(1, 1)) for number in range(50)])
    limits = []
    pending = manifest.pending
    manifest.pending = lambda after, limit: limits.append(limit) or pending(after, limit)
    coordinate(manifest, lambda task: DONE, tmp_path, count=3)
    assert manifest.counts() == Counts(done=50) and set(limits) == {12}


def test_stopping_finishes_what_runs_and_begins_nothing(manifest, tmp_path):
    coordinator = None

    def answer(task):
        coordinator.stop()
        return DONE

    workers = FakeWorkers(answer)
    coordinator = Coordinator(manifest, workers, Layout(tmp_path, "jsonl", "run"))
    coordinator.run()
    assert names(workers.tasks) == ["c", "b"] and manifest.counts() == Counts(pending=1, done=2)


CUTTING = Cutting(frames=10, overlap=4, reach=Reach(2, 2))


def cut_up(task):
    """What a worker says of videos of 18 frames."""
    if isinstance(task, VideoTask) and not task.whole:
        return Long(18, Signature(1, 1), seconds=1.0)
    return PartDone(seconds=1.0) if isinstance(task, SegmentTask) else DONE


def test_a_long_video_is_cut_and_joined_when_all_parts_are_there(manifest, tmp_path):
    _, tasks, _ = coordinate(manifest, cut_up, tmp_path, cutting=CUTTING)
    of_a = [task for task in tasks if task.path == "/a.mp4"]
    assert [type(task) for task in of_a] == [VideoTask, *[SegmentTask] * 3, JoinTask]
    assert of_a[-1].segments == tuple(task.segment for task in of_a[1:4])
    assert {(row["seconds"], row["attempts"]) for row in manifest.rows("done")} == {(6.0, 1)}


def test_the_parts_of_a_video_that_has_begun_come_before_other_videos(manifest, tmp_path):
    _, tasks, _ = coordinate(manifest, cut_up, tmp_path, count=1, cutting=CUTTING)
    assert names(tasks) == ["c"] * 5 + ["b"] * 5 + ["a"] * 5


def test_a_video_with_a_damaged_segment_is_detected_as_a_whole(manifest, tmp_path):
    def answer(task):
        return Damaged() if isinstance(task, SegmentTask) and task.segment.begin == 6 else cut_up(task)

    _, tasks, _ = coordinate(manifest, answer, tmp_path, cutting=CUTTING)
    assert manifest.counts() == Counts(done=3)
    assert [task.whole for task in tasks if isinstance(task, VideoTask)].count(True) == 3
    assert not any(isinstance(task, JoinTask) for task in tasks)


def test_a_segment_that_fails_is_tried_again_alone(manifest, tmp_path):
    failed = set()

    def answer(task):
        if isinstance(task, SegmentTask) and task.path not in failed:
            failed.add(task.path)
            return Failed("out of luck")
        return cut_up(task)

    _, tasks, _ = coordinate(manifest, answer, tmp_path, cutting=CUTTING)
    kinds = Counter(type(task) for task in tasks if task.path == "/a.mp4")
    assert kinds == {VideoTask: 1, SegmentTask: 4, JoinTask: 1}
    assert manifest.counts() == Counts(done=3)


def test_a_video_that_is_given_up_takes_its_segments_with_it(manifest, tmp_path):
    def answer(task):
        return Broken("torn") if isinstance(task, SegmentTask) else cut_up(task)

    part = tmp_path / "parts" / next(iter(manifest.pending(None, 1))).id / "1-1" / "0-10_0-8.jsonl"
    part.parent.mkdir(parents=True)
    part.touch()
    _, tasks, failures = coordinate(manifest, answer, tmp_path, cutting=CUTTING)
    assert manifest.counts() == Counts(failed=3) and len(failures) == 3
    assert not part.exists()
