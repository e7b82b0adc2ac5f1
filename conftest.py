"""Makes the plain commands right: `pytest` and `pytest --nbval notebooks` need no options and no network."""

import os
from pathlib import Path

TESTS = Path(__file__).parent / "tests"

# One thread, no colour, no bars, no network: what a notebook prints is then the same everywhere. Kernels inherit it.
for line in (TESTS / "steady.env").read_text().split():
    name, _, value = line.partition("=")
    os.environ[name] = value


def pytest_configure(config):
    if config.getoption("nbval", default=False):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # stored outputs are those of a CPU
        config.option.nbval_current_env = True
        config.option.nbval_sanitize_with = str(TESTS / "nbval.cfg")
        config.option.nbval_cell_timeout = 600  # a cell that trains takes 40 s on two idle cores, and CI has others
