"""Update rules: methods that change the step itself, one file each."""

from prx_lab.steps.base import Descent, Rule, RuleModule

__all__ = ["Descent", "Rule", "RuleModule"]
