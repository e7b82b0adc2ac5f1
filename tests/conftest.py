"""Helpers of the tests are plain modules beside them; every test starts from the same random numbers."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def seeded():
    """A test sees the same numbers alone, in another order, and in another process."""
    torch.manual_seed(0)
