"""A report as a file for others: JSON, JUnit XML, or one page of HTML, by the file's suffix."""

from __future__ import annotations

from pathlib import Path

from tlora_ref.errors import ConfigError
from tlora_ref.files import json_text, write_text
from tlora_ref.oracle.reports.checks import KitReport
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.reports.junit import junit_xml
from tlora_ref.oracle.reports.page import html_page
from tlora_ref.oracle.reports.sheet import sheet_of

#: Suffix -> what is written, for a person who gave another.
FORMS = {".json": "JSON", ".xml": "JUnit XML", ".html": "a page"}


def check_report_file(file: Path | None) -> None:
    """ConfigError for a file that no report can be written to, before anything is computed."""
    if file is not None and file.suffix.lower() not in FORMS:
        forms = ", ".join(f"{suffix} ({what})" for suffix, what in FORMS.items())
        raise ConfigError(f"the report {file} has no suffix that says what it should be: expected {forms}")
    if file is not None and file.is_dir():
        raise ConfigError(f"the report {file} is a folder: give the name of a file")


def write_report(report: Report | KitReport, file: str | Path) -> None:
    """Write what `verify` or `check` found, right or wrong, with every finding; an old file is replaced.

    Parameters
    ----------
    file : .json (`report.to_dict`, with what is right; null stands for NaN and infinities), .xml (JUnit) or .html (a
        page that needs nothing but itself); its folder is made if need be

    Raises
    ------
    ConfigError
        for another suffix.
    """
    path = Path(file)
    check_report_file(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        values = report.to_dict(every=True) if isinstance(report, Report) else report.to_dict()
        text = json_text(values) + "\n"
    else:
        sheet = sheet_of(report)
        text = junit_xml(sheet) if suffix == ".xml" else html_page(sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
