"""The golden oracle: traces, comparison with derived tolerances, and a conformance kit for other code."""

from tlora_ref.oracle.asserting import assert_right
from tlora_ref.oracle.compare import compare
from tlora_ref.oracle.kit.run import check_implementation
from tlora_ref.oracle.traces.record import trace

__all__ = ["assert_right", "check_implementation", "compare", "trace"]
