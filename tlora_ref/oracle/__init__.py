"""The golden oracle: traces, comparison with derived tolerances, and the conformance kit."""
