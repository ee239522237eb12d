"""Resampled AP: against evaluations of repeated videos, and intervals against a truth that is known."""

import numpy as np
import pytest

from helpers.evaluations import CLASSES, evaluate, make_videos, repeat_videos
from vod2.evaluation.bootstrap import (
    Tally,
    draw_runs,
    draw_videos,
    mean_of_drawn,
    percentile_interval,
    weighted_average_precision,
    weighted_mean,
)
from vod2.evaluation.comparison import compare_methods, count_videos, resampled_metrics
from vod2.evaluation.runs import RunTally, read_run, tally_run


@pytest.mark.parametrize(
    "protocol, groups, empty",
    [
        ("imagenet", "frames", 0),
        ("fixed", "objects", 0),
        ("mega", "objects", 0),
        ("fgfa", "objects", 0),
        ("fgfa", "frames", 5),
    ],
)
def test_reweighting_gives_what_an_evaluation_of_repeated_videos_gives(tmp_path, protocol, groups, empty):
    options = {"protocol": protocol, "groups": groups, "metadata": {"counts_empty_frames": bool(empty)}}
    frames = make_videos(seed=1)
    for record, _ in frames[:empty]:  # their objects are gone, their detections stay
        record["annotations"] = []
    evaluate(frames, tmp_path, **options)
    run = tally_run(read_run(tmp_path))
    weights = np.concatenate([np.ones((1, 6)), draw_videos(6, 8, np.random.default_rng(0))])
    metrics = resampled_metrics(run, CLASSES, weights)
    assert {"AP50", "AP50-any-class", "flicker", "delay", "AP50-blur", "AP50-far", "AP50-dog"} < metrics.keys()
    assert "AP50-fast" in metrics
    for row, of_videos in enumerate(weights):
        expected = evaluate(repeat_videos(frames, of_videos), **options)
        for name, values in metrics.items():
            # A group that the resample has no frame of is not among its metrics.
            assert values[row] == pytest.approx(expected.get(name, np.nan), abs=1e-9, nan_ok=True), name


def test_working_in_small_pieces_gives_the_same_numbers(tmp_path, monkeypatch):
    evaluate(make_videos(seed=2), tmp_path, protocol="mega")
    run = tally_run(read_run(tmp_path))
    weights = draw_videos(6, 20, np.random.default_rng(0))
    expected = resampled_metrics(run, CLASSES, weights)
    monkeypatch.setattr("vod2.evaluation.bootstrap._CELLS_AT_ONCE", 7)
    for name, values in resampled_metrics(run, CLASSES, weights).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-12, err_msg=name)


def test_a_class_that_is_never_found_has_zero_and_one_without_objects_no_number():
    nothing, none = np.zeros(2), np.empty(0, dtype=int)
    missed = Tally(np.array([1, 0]), none, none, none, nothing[:0], None, nothing, nothing)
    result = weighted_average_precision(missed, np.array([[1.0, 1.0], [0.0, 2.0]]))
    np.testing.assert_array_equal(result, [0.0, np.nan])
    np.testing.assert_array_equal(weighted_mean(np.array([6.0, 0]), np.array([2, 0]), np.eye(2)), [3.0, np.nan])


def test_videos_are_drawn_with_replacement_as_many_as_there_are():
    weights = draw_videos(7, 500, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 7).all() and (weights >= 0).all() and weights.max() > 2
    np.testing.assert_array_equal(weights, draw_videos(7, 500, np.random.default_rng(0)))


def test_the_mean_of_drawn_runs_varies_as_the_mean_of_independent_runs():
    rng = np.random.default_rng(0)
    for count in (2, 3, 6):
        values = rng.normal(size=count)
        of_resamples = np.repeat(values[:, None], 100_000, axis=1)
        drawn = mean_of_drawn(of_resamples, draw_runs(count, 100_000, rng))
        assert drawn.mean() == pytest.approx(values.mean(), abs=0.02)
        assert drawn.var() == pytest.approx(values.var(ddof=1) / count, rel=0.03)
    single = rng.normal(size=(1, 5))
    np.testing.assert_array_equal(mean_of_drawn(single, draw_runs(1, 5, rng)), single[0])


def test_an_interval_needs_numbers_in_half_of_the_resamples():
    assert percentile_interval(np.arange(201.0), 0.9) == pytest.approx((10.0, 190.0))
    assert percentile_interval(np.array([np.nan, np.nan, 1.0, 3.0]), 0.5) == (1.5, 2.5)
    assert np.isnan(percentile_interval(np.array([np.nan, np.nan, 1.0]))).all()


def simulate(rng: np.random.Generator, videos: int) -> tuple[np.ndarray, list[tuple]]:
    """Objects (V,) of each video, and for two methods their detections: score, true, video, (n,) each.

    A video has a difficulty, which both methods share; the second finds somewhat more and says so more surely.
    """
    difficulty, objects = rng.normal(size=videos), 1 + rng.poisson(3, videos)
    methods = []
    for skill in (0.3, 0.8):
        video = np.repeat(np.arange(videos), objects)
        found = rng.random(len(video)) < 1 / (1 + np.exp(difficulty[video] - skill))
        video_false = np.repeat(np.arange(videos), rng.poisson(2.0 * np.exp(0.3 * difficulty)))
        true = np.concatenate([np.ones(found.sum(), bool), np.zeros(len(video_false), bool)])
        of_video = np.concatenate([video[found], video_false])
        score = rng.normal(size=len(true)) + np.where(true, 0.7 + skill - 0.4 * difficulty[of_video], 0.0)
        order = np.argsort(-score)
        methods.append((true[order], of_video[order]))
    return objects, methods


def plain_average_precision(true: np.ndarray, positives: int) -> float:
    precision = np.cumsum(true) / np.arange(1, len(true) + 1)
    return float(np.maximum.accumulate(precision[::-1])[::-1][true].sum() / positives)


def as_run(objects: np.ndarray, true: np.ndarray, video: np.ndarray) -> RunTally:
    hits, false = np.flatnonzero(true), np.flatnonzero(~true)
    step = np.searchsorted(hits, false)
    false, step = false[step < len(hits)], step[step < len(hits)]
    ones = np.ones(len(false))
    tally = Tally(objects, video[hits], step, video[false], ones, None, objects, objects)
    nothing = np.zeros(len(objects))
    return RunTally({"all": [tally]}, tally, {"flicker": nothing, "delay": nothing}, nothing)


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    objects, methods = simulate(np.random.default_rng(1), 40_000)
    one, other = (100 * plain_average_precision(true, objects.sum()) for true, _ in methods)
    truth, rng = other - one, np.random.default_rng(2)
    assert 5 < truth < 20
    inside = 0
    for _ in range(200):
        objects, methods = simulate(rng, 50)
        runs = {name: [as_run(objects, *method)] for name, method in zip("ab", methods, strict=True)}
        assert count_videos(runs["a"][0], ["thing"])["AP50"] == 50
        (difference,) = (d for d in compare_methods(runs, ["thing"], rng, 300).differences if d.metric == "AP50")
        inside += difference.low <= truth <= difference.high
    assert 0.90 * 200 <= inside <= 0.99 * 200


def test_what_paired_runs_have_in_common_does_not_widen_the_interval():
    """Trainings of a method differ by much more than the two ways in which each is evaluated."""
    rng = np.random.default_rng(3)
    objects, ((true, video), _) = simulate(rng, 40)
    runs: dict[str, list[RunTally]] = {"a": [], "b": []}
    for share in (0.5, 0.7, 0.9):  # of the hits, by training
        kept = rng.random(len(true)) < np.where(true, share, 1.0)
        slightly_fewer = kept & ~(true & (rng.random(len(true)) < 0.02))
        runs["a"].append(as_run(objects, true[kept], video[kept]))
        runs["b"].append(as_run(objects, true[slightly_fewer], video[slightly_fewer]))
    widths = {}
    for paired in (False, True):
        result = compare_methods(runs, ["thing"], np.random.default_rng(0), 1000, are_runs_paired=paired)
        (found,) = (difference for difference in result.differences if difference.metric == "AP50")
        assert found.low <= found.difference <= found.high
        widths[paired] = found.high - found.low
    assert widths[True] < 0.3 * widths[False]
    with pytest.raises(ValueError, match="different numbers"):
        compare_methods({"a": runs["a"], "b": runs["b"][:2]}, ["thing"], rng, 100, are_runs_paired=True)
