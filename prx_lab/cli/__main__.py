"""`python -m prx_lab.cli` is the `prx-lab` command."""

from prx_lab.cli import main

main()
