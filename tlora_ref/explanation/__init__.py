"""Algorithm 1 explained on a model's own numbers: computed once, shown on one page."""

from tlora_ref.explanation.explain import explain
from tlora_ref.explanation.found import Explanation

__all__ = ["Explanation", "explain"]
