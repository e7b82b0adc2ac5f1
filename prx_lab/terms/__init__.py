"""Loss terms: one paper, one file."""

from prx_lab.terms.base import Out, Term, TermModule
from prx_lab.terms.matching import FlowMatching
from prx_lab.terms.repa import REPA

__all__ = ["FlowMatching", "Out", "REPA", "Term", "TermModule"]
