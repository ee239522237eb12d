"""The contracts hold on a device that is not the CPU, as far as that can be seen without one."""

import re
import subprocess
import sys

import pytest
from torch.utils import backend_registration

from helpers.device import choose_device, device
from helpers.models import ROOT

pytestmark = pytest.mark.skipif(device().type != "cpu", reason="the tests run on a device already")
# Of all contracts a stream and a training step; what else has the marker is the device's own rules.
SAMPLE = ("memory_is_left_as_it_was", "gradient_reaches_every_parameter", "emulated_rules")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no devices that are written in Python",
)
def test_every_aggregator_streams_and_trains_on_the_emulated_device_and_that_has_the_rules_of_a_gpu():
    # In a process of its own: the device changes PyTorch for all that follow.
    options = ["-q", "-p", "no:cacheprovider", "--device", "emulated", "-m", "device_sample", "-k", " or ".join(SAMPLE)]
    command = [sys.executable, "-m", "pytest", *options, "tests/contracts"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 70
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("name", ["nonsense", "meta", "cuda:99"])
def test_a_device_that_does_not_compute_here_is_a_wrong_option(name):
    with pytest.raises(pytest.UsageError, match=f"--device {name}: PyTorch cannot compute on it here"):
        choose_device(name)
    assert device().type == "cpu"
