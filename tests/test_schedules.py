"""The published configurations train as long, and with such rates, as docs/schedules.yaml says that the authors do."""

import functools

import pytest

from helpers.models import ROOT
from helpers.schedules import FACTS, configuration_rows, fact_rows, solver_of
from vod2.d2 import CfgNode
from vod2.engine import load_config

SCHEDULE_OF = {name: schedule for schedule, names in FACTS["configurations"].items() for name in names}


@functools.cache
def config(name: str) -> CfgNode:
    return load_config(str(ROOT / "configs" / f"{name}.yaml"))


def test_every_published_row_has_a_schedule_and_only_one():
    files = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/published/*.yaml")]
    names = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in files}
    assert SCHEDULE_OF.keys() == {name for name in names if not name.startswith("Base-")}
    assert len(SCHEDULE_OF) == sum(map(len, FACTS["configurations"].values()))


@pytest.mark.parametrize("name", SCHEDULE_OF)
def test_the_configuration_is_what_its_schedule_makes(name):
    expected, solver = solver_of(FACTS["schedules"][SCHEDULE_OF[name]]), config(name).SOLVER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, tuple(solver.STEPS)) == (
        expected.ims_per_batch,
        expected.max_iter,
        expected.steps,
    )
    assert solver.BASE_LR == pytest.approx(expected.base_lr, rel=1e-9)
    assert solver.WEIGHT_DECAY == pytest.approx(expected.weight_decay, rel=1e-9)
    assert (solver.LR_SCHEDULER_NAME, solver.GAMMA, solver.MOMENTUM) == ("WarmupMultiStepLR", 0.1, 0.9)
    assert solver.ACCUMULATE == 1 and solver.REFERENCE_WORLD_SIZE == 0
    # MXNet leaves biases alone, which maskrcnn-benchmark (configs/published) does, too
    undecayed = FACTS["schedules"][SCHEDULE_OF[name]]["gradient"] == "sum" or solver.BIAS_LR_FACTOR == 2
    assert solver.WEIGHT_DECAY_BIAS == (0.0 if undecayed else None)


@pytest.mark.parametrize("name", SCHEDULE_OF)
def test_box_losses_are_smooth_l1_with_the_betas_of_public_code(name):
    model = config(name).MODEL
    assert model.RPN.BBOX_REG_LOSS_TYPE == model.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == "smooth_l1"
    assert model.RPN.SMOOTH_L1_BETA == pytest.approx(1 / 9) and model.ROI_BOX_HEAD.SMOOTH_L1_BETA == 1.0


@pytest.mark.parametrize("name", SCHEDULE_OF)
def test_the_selection_of_still_images_is_not_cut_again(name):
    """HVR-Net's second stage alone draws videos, of which a still image is one: it takes as many of them."""
    limit = config(name).DATASETS.MAX_IMAGES_PER_CLASS
    assert limit == 0 or SCHEDULE_OF[name] == "hvrnet"


@pytest.mark.parametrize("name", [name for name in SCHEDULE_OF if "UAVDT" in name])
def test_a_frame_of_uavdt_has_a_shorter_side_of_600(name):
    """1024 x 540 pixels."""
    sizes = config(name).INPUT
    for shorter, longest in (
        (sizes.MIN_SIZE_TRAIN[0], sizes.MAX_SIZE_TRAIN),
        (sizes.MIN_SIZE_TEST, sizes.MAX_SIZE_TEST),
    ):
        assert shorter == 600 and 1024 * 600 / 540 <= longest


def test_the_numbers_that_the_papers_and_codes_name():
    """Computed by hand: 111,473 = 57,834 + 53,639; 222,946 is twice that."""
    schedules = FACTS["schedules"]
    assert FACTS["samples"] == {"listed": 57_834 + 53_639, "flipped": 2 * (57_834 + 53_639), "targets": 57_834}
    found = {name: (solver_of(one).max_iter, solver_of(one).steps) for name, one in schedules.items()}
    assert found["lsts"] == (111_473, (64_934,))  # 4 * 222,946 / 8; 2.33 * 27,868.25 = 64,933.02
    assert found["dff"] == (55_737, (37_149,))  # 2 * 27,868.25 = 55,736.5; 1.333 * 27,868.25 = 37,148.4
    assert found["fgfa"] == (111_473, (74_297,))  # 2 * 55,736.5; 1.333 * 55,736.5 = 74,296.8
    assert found["hvrnet"] == (86_751, (72_293,))  # 12 * 57,834 / 8; 72,292.5
    assert found["selsa"] == (334_419, (222_946,))  # 6 * 222,946 / 4; 4 * 222,946 / 4
    assert found["rdn"] == (120_000, (80_000,)) and found["rdn_second"] == (60_000, (40_000,))


def test_the_page_has_the_same_numbers():
    page = (ROOT / "docs" / "schedules.md").read_text().splitlines()
    missing = [row for row in [*fact_rows(), *configuration_rows()] if row not in page]
    assert not missing, "docs/schedules.md lacks these rows (python -m helpers.schedules, in tests):\n" + "\n".join(
        missing
    )
