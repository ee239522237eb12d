"""Running a plan with a train_net.py that trains nothing: order, resuming, failures, the lock, Ray."""

import concurrent.futures
import json
import os
import subprocess
import sys
import types

import pytest

from helpers.suites import QUICK, calls, fake_train_net, write_suite
from vod2.ablation import (
    JobKey,
    LocalExecutor,
    RayExecutor,
    Records,
    execute,
    load_suite,
    locked,
    make_plan,
    measure,
    measured_seconds,
)
from vod2.ablation.comparison import comparisons
from vod2.errors import UserError

ALL = [
    f"{row}/{kind}" for row, kinds in {"single": "train own", "RDN": "train own none"}.items() for kind in kinds.split()
]


@pytest.fixture
def plan(tmp_path):
    return make_plan(load_suite(write_suite(tmp_path)), "tiny", [0], tmp_path / "out")


def run(plan, folder, executor=None, **behaviour):
    """Run the plan; returns what has failed, and the calls of train_net.py, without the seed."""
    before = len(calls(folder))
    train_net = fake_train_net(folder, **behaviour)
    executor = executor or LocalExecutor("cpu", 1)
    records = Records(plan)
    try:
        failed = execute(plan, records, executor, train_net, lambda line: None, records.write_results)
    finally:
        executor.close()
    return failed, [name.replace("/0/", "/") for name in calls(folder)[before:]]


def test_every_job_is_run_once_and_after_the_one_that_it_needs(plan, tmp_path):
    failed, called = run(plan, tmp_path)
    assert failed == {} and called == ALL
    assert run(plan, tmp_path) == ({}, [])


def test_another_test_setting_runs_after_the_training_that_it_has_the_weights_of_and_again_with_it(tmp_path):
    rows = [
        {"name": "RDN", "config": str(QUICK / "RDN.yaml")},
        {"name": "T3", "config": str(QUICK / "RDN.yaml"), "weights_of": "RDN"},
    ]

    def made(**overrides):
        rows[1]["overrides"] = {"VIDEO.TEST_SCHEDULE.RADIUS": 3} | overrides
        return make_plan(load_suite(write_suite(tmp_path, rows)), "tiny", [0], tmp_path / "out")

    everything = ["RDN/train", "RDN/own", "T3/own"]
    assert run(made(), tmp_path) == ({}, everything)
    assert run(made(), tmp_path) == ({}, [])
    (tmp_path / "out" / "RDN" / "seed0" / "train.json").unlink()
    assert run(made(), tmp_path) == ({}, everything)
    results = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]["T3"]
    assert (results["weights_of"], results["iterations"], set(results["seeds"]["0"])) == ("RDN", None, {"own"})
    # A training that is run again leaves evaluations of other weights behind, also those that were not asked for.
    (tmp_path / "out" / "RDN" / "seed0" / "train.json").unlink()
    alone = make_plan(load_suite(write_suite(tmp_path, rows)), "tiny", [0], tmp_path / "out", rows=["RDN"])
    assert run(alone, tmp_path) == ({}, ["RDN/train", "RDN/own"])
    assert "T3" not in (tmp_path / "out" / "results.md").read_text()
    assert run(made(), tmp_path) == ({}, ["T3/own"])
    with pytest.raises(UserError, match=r"T3.seed0 was made with other settings: VIDEO.TEST_SCHEDULE.RADIUS .3 before"):
        Records(made(**{"VIDEO.TEST_SCHEDULE.RADIUS": 5})).check()


def test_a_row_that_was_trained_itself_is_evaluated_again_with_the_weights_of_another(tmp_path):
    rows = [{"name": name, "config": str(QUICK / "RDN.yaml")} for name in ("RDN", "T3")]

    def made():
        return make_plan(load_suite(write_suite(tmp_path, rows)), "tiny", [0], tmp_path / "out")

    assert run(made(), tmp_path) == ({}, ["RDN/train", "RDN/own", "T3/train", "T3/own"])
    rows[1]["weights_of"] = "RDN"
    assert run(made(), tmp_path) == ({}, ["T3/own"])


def test_rows_are_compared_to_the_reference_and_those_that_name_another_row_to_that(tmp_path):
    config = str(QUICK / "RDN.yaml")
    rows = [{"name": name, "config": config} for name in ("single", "longer", "RDN")]
    rows += [{"name": "T3", "config": config, "weights_of": "RDN", "compared_to": "RDN"}]
    plan = make_plan(load_suite(write_suite(tmp_path, rows, reference="longer")), "tiny", [0], tmp_path / "out")
    assert run(plan, tmp_path)[0] == {}
    names = {c.folder.name: [word.split("=")[0] for word in c.words] for c in comparisons(plan, Records(plan))}
    assert names == {"rows": ["longer", "single", "RDN"], "rows_RDN": ["RDN", "T3"]}


WAITS_FOR_THE_OTHER = """
import os, pathlib, sys, time
own, other = map(pathlib.Path, sys.argv[1:])
own.touch()
end = time.monotonic() + 60
while not other.exists() and time.monotonic() < end:
    time.sleep(0.01)
print(os.environ["OMP_NUM_THREADS"], other.exists())
"""


def test_jobs_run_side_by_side_with_their_share_of_threads(tmp_path, monkeypatch):
    """Each of two jobs ends only when the other has begun."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    executor = LocalExecutor("cpu", 2)
    here = [str(tmp_path / name) for name in ("a", "b")]
    both = [
        executor.submit([sys.executable, "-c", WAITS_FOR_THE_OTHER, *files], f"{files[0]}.txt")
        for files in (here, here[::-1])
    ]
    outcomes = [future.result() for future in both]
    executor.close()
    assert [(tmp_path / f"{name}.txt").read_text() for name in ("a", "b")] == ["3 True\n", "3 True\n"]
    assert [outcome.returncode for outcome in outcomes] == [0, 0]


def test_rows_of_several_seeds_are_all_run_by_two_jobs_at_once(tmp_path):
    plan = make_plan(load_suite(write_suite(tmp_path)), "tiny", [0, 1], tmp_path / "out", rows=["single"])
    failed, called = run(plan, tmp_path, LocalExecutor("cpu", 2))
    assert failed == {}
    assert sorted(called) == ["single/1/own", "single/1/train", "single/own", "single/train"]
    assert called.index("single/train") < called.index("single/own")
    assert called.index("single/1/train") < called.index("single/1/own")


def test_results_have_metrics_time_and_versions_of_every_job(plan, tmp_path):
    run(plan, tmp_path, AP50={"RDN/0/none": 40.0})
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["suite"], results["size"]) == ("mine", "tiny")
    row = results["rows"]["RDN"]
    assert (row["base"], row["iterations"], row["config"]) == ("single", 10, "RDN.yaml")
    assert row["seeds"]["0"]["none"]["metrics"] == {"synthetic_val": {"vid": {"AP50": 40.0}}}
    for kind in ("train", "own", "none"):
        record = row["seeds"]["0"][kind]
        assert record["state"] == "done" and record["attempts"] == 1 and record["seconds"] > 0
        assert "torch" in record["versions"] and "commit" in record
    table = (tmp_path / "out" / "results.md").read_text()
    assert "-10.00" in table  # none to own


def test_a_failure_keeps_only_what_needs_it_from_running_and_is_tried_again(plan, tmp_path):
    failed, called = run(plan, tmp_path, fail=["RDN/0/train"])
    assert called == ["single/train", "single/own", "RDN/train"]
    assert "exit code 1: error: out of luck" in failed[JobKey("RDN", 0, "train")]
    assert failed[JobKey("RDN", 0, "own")] == failed[JobKey("RDN", 0, "none")]
    assert "RDN, seed 0, training has failed" in failed[JobKey("RDN", 0, "own")]
    assert run(plan, tmp_path) == ({}, ["RDN/train", "RDN/own", "RDN/none"])
    assert Records(plan).read(plan.jobs[JobKey("RDN", 0, "train")])["attempts"] == 2


def test_a_failed_evaluation_does_not_touch_the_others(plan, tmp_path):
    failed, called = run(plan, tmp_path, fail=["RDN/0/own"])
    assert called == ALL and set(failed) == {JobKey("RDN", 0, "own")}


def test_a_process_that_leaves_nothing_behind_has_failed(plan, tmp_path):
    (tmp_path / "lazy.py").write_text("")
    records = Records(plan)
    failed = execute(plan, records, LocalExecutor("cpu", 1), str(tmp_path / "lazy.py"), lambda line: None)
    assert "left no" in failed[JobKey("single", 0, "train")]


def test_a_job_that_was_cut_off_is_done_again_and_nothing_else(plan, tmp_path):
    run(plan, tmp_path)
    Records(plan).start(plan.jobs[JobKey("RDN", 0, "none")])  # as a kill would leave it
    assert run(plan, tmp_path) == ({}, ["RDN/none"])


def test_weights_that_are_gone_are_trained_again_only_if_something_needs_them(plan, tmp_path):
    """And what was evaluated of the old ones is evaluated again; another row that is done stays as it is."""
    run(plan, tmp_path)
    for row in ("single", "RDN"):
        (tmp_path / "out" / row / "seed0" / "model_final.safetensors").unlink()
    assert run(plan, tmp_path) == ({}, [])
    Records(plan).start(plan.jobs[JobKey("RDN", 0, "none")])
    assert run(plan, tmp_path) == ({}, ["single/train", "single/own", "RDN/train", "RDN/own", "RDN/none"])
    (tmp_path / "out" / "single" / "seed0" / "model_final.safetensors").unlink()
    Records(plan).start(plan.jobs[JobKey("single", 0, "own")])
    assert run(plan, tmp_path) == ({}, ["single/train", "single/own"])


def test_more_seeds_and_single_rows_add_to_the_table(plan, tmp_path):
    run(plan, tmp_path)
    suite = load_suite(tmp_path / "mine.yaml")
    later = make_plan(suite, "tiny", [1], tmp_path / "out", rows=["single"])
    _, called = run(later, tmp_path)
    assert called == ["single/1/train", "single/1/own"]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert set(rows["single"]["seeds"]) == {"0", "1"} and set(rows["RDN"]["seeds"]) == {"0"}


def test_a_folder_that_was_made_with_other_settings_is_refused(plan, tmp_path):
    run(plan, tmp_path)
    Records(plan).check()
    path = write_suite(tmp_path, sizes={"tiny": {"iterations": 12}})
    changed = make_plan(load_suite(path), "tiny", [0], tmp_path / "out")
    with pytest.raises(UserError, match=r"seed0 was made with other settings: SOLVER.MAX_ITER \(10 before, now 12\)"):
        Records(changed).check()


def test_keys_that_nothing_reads_are_no_settings(plan):
    settings = next(job.settings for job in plan.jobs.values() if job.settings)
    assert "SOLVER.MAX_ITER" in settings
    assert not [key for key in settings if key.startswith(("MODEL.CSMN.", "INPUT.SSD."))]


def test_keys_that_came_with_an_update_do_not_count_as_other_settings(plan, tmp_path):
    run(plan, tmp_path)
    record = tmp_path / "out" / "RDN" / "seed0" / "train.json"
    content = json.loads(record.read_text())
    del content["settings"]["TEST.CONTEXT"]
    content["settings"]["MODEL.OF_OLD"] = 1
    record.write_text(json.dumps(content))
    Records(plan).check()


def test_a_broken_record_is_named(plan, tmp_path):
    run(plan, tmp_path)
    (tmp_path / "out" / "RDN" / "seed0" / "own.json").write_text("{")
    with pytest.raises(UserError, match="own.json is no record of a job"):
        Records(plan).results()


def test_a_folder_has_one_user_at_a_time(tmp_path):
    with locked(tmp_path / "out"):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on .*wait for them, stop them"):
            with locked(tmp_path / "out"):
                pass
    with locked(tmp_path / "out"):
        pass


def test_a_lock_that_a_dead_process_left_behind_is_taken_over(tmp_path):
    (tmp_path / "ablate.lock").write_text("process 999999 on nowhere")
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / "ablate.lock").read_text()


def test_the_lock_holds_as_long_as_a_process_that_inherited_it(tmp_path):
    with locked(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(UserError, match="left running"):
        with locked(tmp_path):
            pass
    child.communicate(b"\n")
    with locked(tmp_path):
        pass


def test_closing_ends_what_runs(tmp_path):
    executor = LocalExecutor("cpu", 1)
    running = executor.submit([sys.executable, "-c", "import time; time.sleep(600)"], str(tmp_path / "log.txt"))
    waiting = executor.submit([sys.executable, "-c", "import time; time.sleep(600)"], str(tmp_path / "log.txt"))
    executor.close()
    assert running.cancelled() or running.result().returncode != 0
    assert waiting.cancelled() or waiting.result().returncode != 0


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_processes_are_too_few(jobs):
    with pytest.raises(UserError, match=f"--jobs is {jobs}, expected at least 1"):
        LocalExecutor("cpu", jobs)


def test_every_gpu_has_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    executor = LocalExecutor("cuda")
    script = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(0.3)"
    both = [executor.submit([sys.executable, "-c", script], str(tmp_path / f"{i}.txt")) for i in range(2)]
    concurrent.futures.wait(both)
    executor.close()
    assert sorted((tmp_path / f"{i}.txt").read_text() for i in range(2)) == ["5\n", "7\n"]
    with pytest.raises(UserError, match="--jobs is 3, expected 1 to 2: one for each GPU"):
        LocalExecutor("cuda", 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="no GPU was found"):
        LocalExecutor("cuda")


class FakeRay(types.ModuleType):
    """What RayExecutor asks of Ray: tasks run in threads, one for each CPU."""

    def __init__(self, resources: dict[str, float]) -> None:
        super().__init__("ray")
        self._resources, self.options, self.threads = resources, [], None

    def init(self, ignore_reinit_error):
        self.threads = concurrent.futures.ThreadPoolExecutor(int(max(self._resources.values(), default=1)))

    def cluster_resources(self):
        return self._resources

    def remote(self, **options):
        self.options.append(options)

        def decorate(function):
            def begin(*arguments):
                future = self.threads.submit(function, *arguments)
                return types.SimpleNamespace(future=lambda: future)

            return types.SimpleNamespace(remote=begin)

        return decorate

    def shutdown(self):
        self.threads.shutdown()


def test_on_a_cluster_jobs_are_tasks_with_one_device_each(plan, tmp_path, monkeypatch):
    ray = FakeRay({"CPU": 3.0, "GPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", ray)
    executor = RayExecutor("cuda")
    assert executor.slots == 2 and ray.options == [{"max_retries": 3, "num_gpus": 1}]
    failed, called = run(plan, tmp_path, executor)
    assert failed == {} and sorted(called) == sorted(ALL)
    assert RayExecutor("cpu").slots == 3 and RayExecutor("cpu", 1).slots == 1


def test_a_cluster_without_gpus_and_a_missing_ray_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay({"CPU": 1.0}))
    with pytest.raises(UserError, match="cluster of Ray has no GPU"):
        RayExecutor("cuda")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'vod2\[ray\]'"):
        RayExecutor("cpu")


def test_measuring_trains_each_row_once_and_keeps_nothing_but_the_time(tmp_path):
    plan = make_plan(load_suite(write_suite(tmp_path)), "tiny", [0, 1], tmp_path / "out")
    executor = LocalExecutor("cpu", 1)
    found = measure(plan, executor, fake_train_net(tmp_path), "cpu", lambda line: None)
    assert found == measured_seconds(tmp_path / "out", "cpu") == {"single": 0.25, "RDN": 0.25}
    assert len(calls(tmp_path)) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["seconds_per_iteration.json"]
    assert measured_seconds(tmp_path / "out", "cuda") == {}
    with pytest.raises(UserError, match="single cannot be trained: .*No such file|can't open file"):
        measure(plan, executor, str(tmp_path / "nowhere.py"), "cpu", lambda line: None)
    executor.close()


def test_configurations_of_the_quick_suite_are_all_planned(tmp_path):
    suite = load_suite(QUICK.parent / "suites" / "quick.yaml")
    plan = make_plan(suite, "tiny", [0], tmp_path / "out")
    assert {key.row for key in plan.wanted} == {"FasterRCNN", "FasterRCNN_Longer", "Relation", "RDN", "SELSA", "LSTS"}
