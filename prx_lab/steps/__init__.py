"""Update rules: methods that change the step itself, one file each."""

from prx_lab.steps.base import Descent, Rule, RuleModule
from prx_lab.steps.distill import GuidanceDistillation, ProgressiveDistillation

__all__ = ["Descent", "GuidanceDistillation", "ProgressiveDistillation", "Rule", "RuleModule"]
