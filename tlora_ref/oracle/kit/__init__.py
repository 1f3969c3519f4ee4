"""The conformance kit: other people's code, run over generated cases of every stage and judged."""
