"""`python -m prx_lab` is the command `prx-lab`; `accelerate launch -m prx_lab run RECIPE` trains on several devices."""

from prx_lab.cli import main

main()
