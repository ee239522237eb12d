"""Makes tests/helpers and tests/reference importable, and keeps every test on one thread."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
