"""What was measured, as a table on the terminal and as the part of README.md that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.cases import Case

BEGIN, END = "<!-- made by python -m tests.benchmarks --write -->", "<!-- end -->"
PAGE = Path(__file__).with_name("README.md")
HEADS = (
    "model",
    "row",
    "shape",
    "ours / torch",
    "quartiles",
    "other kernel / torch",
    "ours / compiled",
    "seconds: ours, torch",
    "peak GiB: ours, torch",
    "bare products / torch",
)


def case_of(result: dict[str, Any]) -> Case:
    return Case(*(result[key] for key in ("row", "model", "batch", "tokens")))


def merged(before: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`before` with the cases of `new` replaced, or added after."""
    found = {case_of(result): result for result in before}
    found.update({case_of(result): result for result in new})
    return list(found.values())


def line(result: dict[str, Any]) -> list[str]:
    """One row of the table, in the order of HEADS."""
    case, ratios = case_of(result), result["ratios"]

    def median(pair: str) -> str:
        return f"{ratios[pair]['median']:.2f}" if pair in ratios else ""

    def both(values: dict[str, float], unit: float, digits: int) -> str:
        return ", ".join(f"{values[side] / unit:.{digits}f}" for side in ("ours", "torch") if side in values)

    own, torch = ratios.get("ours / torch"), result["seconds"].get("torch")
    return [
        case.model,
        case.row,
        case.shape,
        median("ours / torch"),
        f"{own['low']:.2f} to {own['high']:.2f}" if own else "",
        median("other / torch"),
        median("ours / compiled"),
        both(result["seconds"], 1.0, 3),
        both(result["peak_bytes"], 2**30, 2),
        f"{result['bare_seconds'] / torch:.2f}" if torch and "bare_seconds" in result else "",
    ]


def markdown(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """The table, and below it where it was made and what torch.compile took."""
    rows = [HEADS, ["---"] * len(HEADS), *map(line, results)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    compiled = [r for r in results if "compiled / torch" in r["ratios"]]
    said = [
        f"torch.compile (inductor), {r['model']}, {r['row']} {case_of(r).shape}: "
        f"{r['ratios']['compiled / torch']['median']:.2f} of eager's time, ready after "
        f"{r['ready_seconds']['compiled']:.0f} s."
        for r in compiled
    ]
    where = ", ".join(f"{key} {value}" for key, value in facts.items())
    return f"{table}\n\n{' '.join([*said, f'Measured with {where}.'])}"


def write(facts: dict[str, Any], results: list[dict[str, Any]], page: Path = PAGE) -> None:
    """Replace the part of the page between its marks."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page} has no part between {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{markdown(facts, results)}\n\n{END}{after}", encoding="utf-8")
