"""Models and adapters of this library in lm-evaluation-harness (the extra `lm-eval`)."""
