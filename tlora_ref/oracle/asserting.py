"""`assert_right`: a verdict as an assertion, for a test of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlora_ref.oracle.compare import compare
from tlora_ref.oracle.kit.vectors import CASES, compare_vectors
from tlora_ref.oracle.reports.checks import KitReport
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.reports.files import check_report_file, write_report
from tlora_ref.oracle.verdict import Wrong


def assert_right(
    golden: str | Path, candidate: str | Path, *, report: str | Path | None = None, **options: Any
) -> Report | KitReport:
    """Hold `candidate` against `golden`, as `tlora-ref verify` does, and raise if it does not pass.

        def test_my_run(tmp_path):
            my_run(tmp_path)  # writes a trace
            assert_right("golden", tmp_path, require=["A", "adamw"])

    Parameters
    ----------
    golden : folder of a trace, or of vectors
    candidate : folder of a trace or of a PEFT adapter; of outputs, for vectors
    report : .json, .xml (JUnit) or .html, written whether it passes or not
    options : as `compare` takes them (checkpoint, dtype, tolerances, require); vectors take dtype alone

    Returns
    -------
    Report, or KitReport for vectors

    Raises
    ------
    Wrong
        an AssertionError: its message is the report's table and lines, the verdict last
    CheckpointError, ConfigError
        for what cannot be compared, as `compare`.
    """
    __tracebackhide__ = True  # pytest shows the reader's line, and the message
    file = None if report is None else Path(report)
    check_report_file(file)
    found: Report | KitReport
    if (Path(golden) / CASES).is_file():
        found = compare_vectors(golden, candidate, **options)
    else:
        found = compare(golden, candidate, **options)
    if file is not None:
        write_report(found, file)
    if not found.passed:
        raise Wrong(f"{candidate} beside {golden}\n{found}")
    return found
