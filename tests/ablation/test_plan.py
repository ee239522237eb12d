"""From a suite to jobs: what is run, with which words, and what it costs."""

import pytest

from helpers.suites import QUICK, write_suite
from vod2.ablation import JobKey, Records, load_suite, make_plan, render_plan
from vod2.errors import UserError


def opts_of(job) -> dict[str, str]:
    """KEY VALUE ... of a job; where a key comes twice the last one counts."""
    flags = {"--config-file": 2, "--context": 2, "--resume": 1, "--eval-only": 1}
    rest = list(job.words)
    while rest[0] in flags:
        del rest[: flags[rest[0]]]
    return dict(zip(rest[::2], rest[1::2], strict=True))


@pytest.fixture
def suite(tmp_path):
    return load_suite(write_suite(tmp_path))


def test_jobs_come_seed_after_seed_and_a_base_before_the_rows_that_start_from_it(suite, tmp_path):
    plan = make_plan(suite, "tiny", [3, 1], tmp_path / "out")
    assert [tuple(key) for key in plan.jobs] == [
        (row, seed, kind)
        for seed in (3, 1)
        for row, kinds in {"single": ("train", "own"), "RDN": ("train", "own", "none")}.items()
        for kind in kinds
    ]
    assert plan.wanted == set(plan.jobs)
    assert plan.jobs[JobKey("RDN", 1, "train")].needs == JobKey("single", 1, "train")
    assert plan.jobs[JobKey("RDN", 1, "none")].needs == JobKey("RDN", 1, "train")
    assert plan.jobs[JobKey("single", 1, "train")].needs is None


def test_a_training_starts_from_the_final_weights_of_its_base_and_evaluates_nothing(suite, tmp_path):
    plan = make_plan(suite, "tiny", [7], tmp_path / "out", device="cuda")
    job = plan.jobs[JobKey("RDN", 7, "train")]
    assert job.words[:3] == ("--config-file", str(QUICK / "RDN.yaml"), "--resume")
    opts = opts_of(job)
    assert opts["MODEL.WEIGHTS"] == str(tmp_path / "out" / "single" / "seed7" / "model_final.safetensors")
    assert opts["OUTPUT_DIR"] == str(tmp_path / "out" / "RDN" / "seed7")
    assert (opts["SEED"], opts["SOLVER.MAX_ITER"], opts["DATASETS.TEST"]) == ("7", "10", "()")
    assert opts["MODEL.DEVICE"] == "cuda"


def test_an_evaluation_takes_the_rows_own_weights_and_its_context(suite, tmp_path):
    job = make_plan(suite, "tiny", [0], tmp_path / "out").jobs[JobKey("RDN", 0, "none")]
    assert job.words[2:5] == ("--eval-only", "--context", "none")
    assert opts_of(job)["MODEL.WEIGHTS"] == str(tmp_path / "out" / "RDN" / "seed0" / "model_final.safetensors")
    assert job.datasets == ("synthetic_val",)


def test_iterations_and_overrides_of_a_row_come_before_those_of_the_size(tmp_path):
    rows = [
        {"name": "a", "config": str(QUICK / "FasterRCNN.yaml")},
        {"name": "b", "config": str(QUICK / "FasterRCNN.yaml"), "iterations": 5, "overrides": {"SOLVER.BASE_LR": 0.5}},
        {"name": "c", "config": str(QUICK / "FasterRCNN.yaml"), "iterations": {"full": 6}},
    ]
    sizes = {"tiny": {"iterations": 10, "overrides": {"SOLVER.BASE_LR": 0.25}}, "full": {"test": ["synthetic_train"]}}
    suite = load_suite(write_suite(tmp_path, rows, sizes=sizes))
    tiny, full = (make_plan(suite, size, [0], tmp_path / size) for size in ("tiny", "full"))
    assert tiny.iterations == {"a": 10, "b": 5, "c": 10}
    assert full.iterations == {"a": 1600, "b": 5, "c": 6}  # 1600 is that of configs/quick
    rates = [opts_of(tiny.jobs[JobKey(row, 0, "train")])["SOLVER.BASE_LR"] for row in "abc"]
    assert rates == ["0.25", "0.5", "0.25"]
    assert full.jobs[JobKey("a", 0, "own")].datasets == ("synthetic_train",)
    assert opts_of(full.jobs[JobKey("a", 0, "own")])["DATASETS.TEST"] == "('synthetic_train',)"


def test_of_a_row_that_was_not_asked_for_only_the_needed_training_is_wanted(suite, tmp_path):
    plan = make_plan(suite, "tiny", [0], tmp_path / "out", rows=["RDN"])
    assert plan.wanted == {JobKey("single", 0, "train")} | {JobKey("RDN", 0, kind) for kind in ("train", "own", "none")}
    plan = make_plan(suite, "tiny", [0], tmp_path / "out", rows=["single"])
    assert plan.wanted == {JobKey("single", 0, "train"), JobKey("single", 0, "own")}


def test_another_test_setting_is_evaluated_with_the_weights_of_its_row_and_not_trained(tmp_path):
    rows = [
        {"name": "single", "config": str(QUICK / "FasterRCNN.yaml"), "contexts": []},
        {"name": "RDN", "config": str(QUICK / "RDN.yaml"), "base": "single"},
        {"name": "T3", "config": str(QUICK / "RDN.yaml"), "weights_of": "RDN", "contexts": ["own", "none"]}
        | {"overrides": {"VIDEO.TEST_SCHEDULE.RADIUS": 3}},
    ]
    suite = load_suite(write_suite(tmp_path, rows))
    plan = make_plan(suite, "tiny", [2], tmp_path / "out", rows=["T3"])
    assert [tuple(key) for key in plan.jobs if key in plan.wanted] == [
        ("single", 2, "train"),
        ("RDN", 2, "train"),
        ("T3", 2, "own"),
        ("T3", 2, "none"),
    ]
    job = plan.jobs[JobKey("T3", 2, "own")]
    opts = opts_of(job)
    assert opts["MODEL.WEIGHTS"] == str(tmp_path / "out" / "RDN" / "seed2" / "model_final.safetensors")
    assert opts["OUTPUT_DIR"] == str(tmp_path / "out" / "T3" / "seed2") and opts["VIDEO.TEST_SCHEDULE.RADIUS"] == "3"
    assert job.needs == JobKey("RDN", 2, "train")
    assert job.settings["VIDEO.TEST_SCHEDULE.RADIUS"] == 3 and job.settings["weights"] == "RDN"
    assert set(plan.iterations) == {"single", "RDN"} and suite.compared_to("T3") == "RDN"
    (line,) = (line for line in render_plan(plan, Records(plan), slots=1).splitlines() if "| T3" in line)
    assert [cell.strip() for cell in line.split("|")][3:6] == ["weights of RDN", "", "own none"]


def test_seeds_that_are_in_the_folder_are_in_the_plan_but_not_wanted(suite, tmp_path):
    (tmp_path / "out" / "single" / "seed4").mkdir(parents=True)
    (tmp_path / "out" / "single" / "seed4" / "train.json").write_text("{}")
    plan = make_plan(suite, "tiny", [0], tmp_path / "out")
    assert {key.seed for key in plan.jobs} == {0, 4} and {key.seed for key in plan.wanted} == {0}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": "huge"}, "--size is 'huge', suite mine has tiny, full"),
        ({"seeds": []}, r"--seeds are \[\]"),
        ({"seeds": [1, 1]}, r"--seeds are \[1, 1\], expected different"),
        ({"seeds": [-1]}, "at least 0"),
        ({"rows": ["RDN", "SELSA"]}, "no row 'SELSA': expected some of single, RDN"),
    ],
)
def test_what_cannot_be_planned_is_refused(suite, tmp_path, changes, message):
    arguments = {"size": "tiny", "seeds": [0], "output": tmp_path / "out"} | changes
    with pytest.raises(UserError, match=message):
        make_plan(suite, **arguments)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"MODEL.NO_SUCH_KEY": 1}, "row a: .*MODEL.NO_SUCH_KEY"),
        ({"DATASETS.TRAIN": ["unheard_of"]}, "row a: dataset 'unheard_of' is not registered"),
        ({"DATASETS.TEST": []}, "row a: there is nothing to evaluate on"),
    ],
)
def test_a_row_whose_configuration_does_not_load_is_named(tmp_path, overrides, message):
    row = {"name": "a", "config": str(QUICK / "FasterRCNN.yaml"), "overrides": overrides}
    with pytest.raises(UserError, match=message):
        make_plan(load_suite(write_suite(tmp_path, [row])), "tiny", [0], tmp_path / "out")


def test_the_plan_tells_the_cost_by_hand(tmp_path):
    """a: 10 x 2 s + 100 x 1 s; b: 10 x 3 s measured instead of 9 stated + 100 x .5 s + foreign, twice that."""
    config = str(QUICK / "FasterRCNN.yaml")
    rows = [
        {"name": "a", "config": config, "seconds_per_iteration": 2, "seconds_per_frame": 1},
        {"name": "b", "config": config, "base": "a", "seconds_per_iteration": 9, "seconds_per_frame": 0.5}
        | {"contexts": ["own", "foreign"]},
        {"name": "c", "config": config},
    ]
    suite = load_suite(write_suite(tmp_path, rows, sizes={"tiny": {"iterations": 10, "frames": 100}}))
    plan = make_plan(suite, "tiny", [0, 1], tmp_path / "out", measured={"b": 3.0})
    seconds = {tuple(key): job.seconds for key, job in plan.jobs.items() if key.seed == 0}
    assert seconds == {
        ("a", 0, "train"): 20,
        ("a", 0, "own"): 100,
        ("b", 0, "train"): 30,
        ("b", 0, "own"): 50,
        ("b", 0, "foreign"): 100,
        ("c", 0, "train"): None,
        ("c", 0, "own"): None,
    }
    text = render_plan(plan, Records(plan), slots=2)
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "yaml" in line]
    assert [line[-2] for line in cells] == ["4 min", "6 min", "unknown"]  # 2 x 120 s, 2 x 180 s
    assert "14 jobs to do, 2 at once; expected: 10 min + 4 unknown of one process, at least 5 min side by side" in text
