"""Loss terms: one paper, one file."""

from prx_lab.terms.base import Out, Term, TermModule
from prx_lab.terms.matching import FlowMatching
from prx_lab.terms.perceptual import LPIPS, PerceptualDINO
from prx_lab.terms.repa import IREPA, REPA

__all__ = ["IREPA", "FlowMatching", "LPIPS", "Out", "PerceptualDINO", "REPA", "Term", "TermModule"]
