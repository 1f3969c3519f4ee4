"""The mutants that no test can tell from the original, and why."""

from __future__ import annotations

import re

#: (file, a regular expression of the mutated line as it then reads) -> why no test can tell it from the original.
EQUIVALENT: dict[tuple[str, str], str] = {
    ("algorithm.py", r"total \* N for i, total"): "S and C matter up to a positive factor alone",
    ("algorithm.py", r"N \+= 2"): "S and C matter up to a positive factor alone",
    ("algorithm.py", r"zip\(W, given\..*strict=False"): "they are of one length: a value for each module",
    ("algorithm.py", r"if N <= 0:"): "no count is negative",
    ("algorithm.py", r"if r\[i\] != 0:"): "no rank is negative",
    ("algorithm.py", r"switches\.remainder <= .largest."): "the other switch, none, sorts after it",
    ("calibration/blocked.py", r"BLOCK = "): "the blocks change no value",
    ("method/switches.py", r"fields\(Switches\)\} \^ \{.name.\}"): "name is a field",
    ("calibration/blocked.py", r"_bands\(total\.shape\[ -?1\]"): "a sum of X^T X is square",
    ("method/schedule.py", r"schedule >= .linear."): "of the schedules that are left the other, constant, sorts before",
    ("method/schedule.py", r"max\( -1\.0, 0\.5 "): "no cosine is below -1",
    ("method/allocation.py", r"and \(r != cap\)\.any"): "no rank is beyond its cap",
    ("method/allocation.py", r"np\.ldexp\(S, [~-]"): "another power of two is as exact",
    ("method/switches.py", r"f\.type <= .bool."): "no type of a switch sorts before bool",
    ("method/singular.py", r"if (r|d_out|not d_out) "): "every way to reduce M has the same vectors: one is quicker",
    ("method/initialization.py", r"svd_dtype >= .float64."): "the other precision, float32, sorts before",
    ("method/allocation.py", r"largest <= 0\.0"): "no sensitivity is negative: that is refused before",
    ("method/allocation.py", r"0 < alpha != math\.inf"): "of the positive numbers infinity alone is not less",
    ("method/allocation.py", r"np\.where\(r != cap"): "no rank is beyond its cap",
    ("method/allocation.py", r"1 if rest (>= 0|> -1) else"): "the loop ends where the rest is 0",
    ("method/allocation.py", r"\+= 2 if rest > 0"): "the largest stays the largest, and gives back what is too much",
    ("method/allocation.py", r"~np\.isfinite\(S\) \+"): "a sum of booleans is their union",
    ("method/theory.py", r"shape\[1\] <= 0"): "no axis is shorter than nothing",
    ("method/theory.py", r"values\[0\] >= len"): "an eigenvalue that is the bound to the last bit",
    ("method/theory.py", r"eye\(C\.shape\[ -?1\]"): "C is square",
    ("method/covariance.py", r"shape\[0\] <= 0"): "no axis is shorter than nothing",
    ("method/covariance.py", r"keepdims=False"): "the mean over the first axis is spread over it either way",
    ("oracle/stages/scales.py", r"dims = \[\(.*len\(S\)"): "no rank is near this cap, and no scale depends on it",
    ("oracle/compare.py", r"precision\.name <= .float64."): "the other precisions only ask again, in a finer one",
    ("oracle/stages/walk.py", r"f\.against <= GOLDEN and"): "there are two texts, and the other one is greater",
    ("oracle/stages/bounds.py", r"np\.where\(allowed > 0, allowed, "): "a quotient that is not used",
    ("oracle/stages/spectrum.py", r"found\.sharp_sine\(.\) <= BLUNT"): "a bound of exactly a quarter",
    ("oracle/stages/initialization.py", r"ord=1\)\)"): "another norm of a matrix that is zero or far from it",
    ("oracle/stages/initialization.py", r"\(moved \+ 6[35]\.0 \* unit\)"): "beside what the network's own noise allows",
    ("oracle/stages/rows.py", r"lengths\[:, None\] \*\* 3"): "a row is likest to its own by any measure of its length",
    ("oracle/stages/loss.py", r"\.ndim < 2 or"): "logits have two axes, or one",
    ("oracle/stages/ranks.py", r"- 1\) <= 0 and"): "a bitwise product is never negative",
    ("oracle/stages/ranks.py", r"float\(distance\) < SAFETY"): "a distance that is the bound to the last bit",
    ("oracle/stages/initialization.py", r"np\.zeros\(max\(0, r << "): "more zeros, and cut to r after it",
    ("oracle/stages/shares.py", r"len\(verdicts\) < 2 or"): "a matrix has two parts",
    ("oracle/stages/shares.py", r"more = .* >= 1\.0"): "a share that is wrong is not 1",
    ("oracle/stages/shares.py", r"wrong\.got or -?1\.0"): "neither is more than 1",
    ("oracle/stages/shares.py", r"sum\(\)\) or ( 2|-1|.?0)\.0"): "where all numbers are 0 their noise is",
    ("oracle/stages/shares.py", r"zip\(keys, golden, strict=False"): "they are of one length",
    ("oracle/stages/shares.py", r"pairs\[key\]\[ (0|-1)\]\.size"): "what is judged has golden's shape",
    ("oracle/stages/directions.py", r"np\.where\(off != 0\.0"): "no error is negative",
    ("oracle/stages/directions.py", r"where=allowed != 0\.0"): "no bound is negative",
    ("oracle/stages/directions.py", r"np\.where\(gaps (>=|!=) 0\.0"): "a quotient that is not used",
    ("oracle/stages/directions.py", r"gaps > (-1\.0|0\.0, gaps, +(0|2|-1)\.0\))"): "a quotient that is not used",
    ("oracle/stages/directions.py", r"gaps, 1\.0\), 2\.0\), 1\.0\)"): "at most 1",
    ("oracle/stages/directions.py", r"np\.where\(off < 0\.0"): "what storing cannot turn at all is not off",
    ("oracle/precision.py", r"without .*@staticmethod"): "it is called on the class alone",
    ("oracle/stages/rows.py", r"Spectrum\(np\.zeros\(\((0, shape\[ |1, )"): "the product is not looked at",
    ("oracle/stages/merge.py", r"_steps\(sides\) <= 0|if last <= 0"): "no count is negative",
    ("oracle/verdict.py", r"frozen=True, repr=True"): "it has a repr of its own",
    ("oracle/stages/step_rates.py", r"errors != 0\.0"): "no error is negative",
    ("oracle/stages/step_rates.py", r"accumulation (==|is) precision\.storage <"): "they are of those that are judged",
    ("oracle/stages/step_rates.py", r"weights = ([2-9]|-1)\.0 / np\.where"): "all weights are larger by one factor",
    ("oracle/stages/step_rates.py", r"ravel\(\), ( 2|-1|.?0)\.0\) \* known"): "of what is not known the weight is 0",
    ("oracle/stages/step_rates.py", r"zip\(betas, .*strict=False"): "there are two",
    ("oracle/stages/whole_run.py", r"\(norm or ( 2|-1|.?0)\.0\)"): "of gradients that are zero no share is anything",
    (
        "oracle/stages/spectrum.py",
        r"range\(len\(found\.sigma\) \*\* 1\)",
    ): "every A of d_in rows spans the whole space",
    ("oracle/stages/adamw.py", r"if t >= 0 else"): "what is not finite explains nothing, from either branch",
    ("oracle/stages/initialization.py", r"ord=1\) <= 1e-3"): "another norm of a matrix that is zero or far from it",
}


def equivalent(path: str, line: str) -> str | None:
    """Why no test can tell this mutant, where that is known."""
    known = ((file, pattern, why) for (file, pattern), why in EQUIVALENT.items())
    return next((why for file, pattern, why in known if path.endswith(file) and re.search(pattern, line)), None)
