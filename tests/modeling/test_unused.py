"""Every parameter gets a gradient from every clip, and training in several processes needs that."""

import os
import subprocess
import sys

import torch
from torch import nn

from helpers.contracts import losses_of_step
from helpers.models import LSTS_KEYS, build_detector, make_targets, make_video
from helpers.two_processes import METHODS
from vod2.modeling.unused import parameters_of, with_zero_gradients


def test_a_parameter_that_no_loss_depends_on_gets_a_gradient_of_zero_whatever_its_value():
    used, unused = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([[1.0, torch.inf], [torch.nan, 0.0]]))
    losses = with_zero_gradients({"a": used.square().sum(), "b": used.sum()}, [used, unused])
    assert {name: value.item() for name, value in losses.items()} == {"a": 4.0, "b": 2.0}
    sum(losses.values()).backward()
    assert used.grad.tolist() == [5.0] and unused.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_parameters_of_any_shape_and_precision_get_their_gradient():
    used, scalar = nn.Parameter(torch.ones(2)), nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
    half = nn.Parameter(torch.ones(2, 3, 4, 4, dtype=torch.float16).to(memory_format=torch.channels_last))
    losses = with_zero_gradients({"loss": used.sum()}, [used, scalar, half])
    losses["loss"].backward()
    assert losses["loss"].dtype == torch.float32 and losses["loss"].item() == 2
    assert scalar.grad == 0 and scalar.grad.dtype == torch.float64
    assert half.grad.shape == half.shape and not half.grad.any()


def test_losses_stay_the_same_tensors_where_every_parameter_is_used():
    weight = nn.Parameter(torch.ones(3))
    loss = weight.sum()
    assert with_zero_gradients({"loss": loss}, [weight])["loss"] is loss


def test_frozen_parameters_are_left_alone():
    weight, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2), requires_grad=False)
    with_zero_gradients({"loss": weight.sum()}, [weight, frozen])["loss"].backward()
    assert frozen.grad is None


def test_losses_without_a_graph_stay_as_they_are():
    weight = nn.Parameter(torch.ones(3))
    with torch.no_grad():
        losses = with_zero_gradients({"loss": weight.sum()}, [weight])
    assert losses["loss"].item() == 3 and not losses["loss"].requires_grad
    assert with_zero_gradients({}, [weight]) == {}


def test_the_parameters_of_a_loss_are_found_through_branches_and_layers():
    shared, only, other = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    hidden = shared(torch.ones(1, 2))
    found = parameters_of([only(hidden).sum() + hidden.sum()])
    assert found == {*shared.parameters(), *only.parameters()} and not found & {*other.parameters()}


def test_a_lone_image_gives_every_parameter_of_lsts_a_gradient_and_does_not_change_the_others():
    model = build_detector(LSTS_KEYS | {"MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": "LSTSAggregator"}).train()
    plain = build_detector().train()
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs = [{"image": make_video(1)[0], "instances": make_targets()}]
    for each in (model, plain):
        sum(losses_of_step(each, inputs).values()).backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        if name.startswith("pixel_aggregator."):
            assert not parameter.grad.any(), name
        else:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def run_two_processes(folder, methods: list[str]) -> subprocess.CompletedProcess:
    path = os.pathsep.join(entry for entry in [os.getcwd(), *sys.path] if entry)
    return subprocess.run(
        [sys.executable, "-m", "helpers.two_processes", str(folder), *methods],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_two_processes_train_on_a_still_image_and_a_video_and_end_with_the_same_parameters(tmp_path):
    done = run_two_processes(tmp_path, list(METHODS))
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    for method in METHODS:
        start = dict(build_detector(METHODS[method]).named_parameters())
        moved = 0
        for name, value in first[method].items():
            assert value.isfinite().all() and value.equal(second[method][name]), (method, name)
            moved += not value.equal(start[name].cpu())
        assert moved > len(start) / 2, method
