"""The paper, one small file a topic: plain arrays in, plain arrays out; no tape, no model, no files.

The equation index is the docstring of `tlora_ref`.
"""
