"""The golden oracle: traces, comparison with derived tolerances, and the stages that a candidate is judged by."""

from tlora_ref.oracle.compare import compare
from tlora_ref.oracle.record import trace

__all__ = ["compare", "trace"]
