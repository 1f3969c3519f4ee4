"""A report as JUnit XML, which CI systems show beside other tests: a suite a stage, a case a finding or a check."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

from tlora_ref.oracle.reports.about import facts
from tlora_ref.oracle.reports.sheet import FOLLOWS, RIGHT, UNJUDGED, WRONG, Entry, Sheet

#: What XML 1.0 cannot hold, whatever the escape.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(sheet: Sheet) -> str:
    """The file's text. Its suite "verdict" fails exactly where the report does not pass."""
    root = ET.Element("testsuites", name=f"tlora-ref {sheet.command}")
    for stage, paper in sheet.places.items():
        mine = [entry for entry in sheet.entries if entry.stage == stage]
        suite = ET.SubElement(root, "testsuite", name=_text(f"{stage} ({paper})"))
        for entry in mine:
            _case(suite, sheet.command, entry)
        _count(suite, mine)
    _verdict(root, sheet)
    for name in ("tests", "failures", "skipped"):
        root.set(name, str(sum(int(suite.get(name, 0)) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, command: str, entry: Entry) -> None:
    name = f"{entry.where}: {entry.what}"
    case = ET.SubElement(suite, "testcase", classname=f"tlora-ref.{command}.{entry.stage}", name=_text(name))
    if entry.meaning in (WRONG, FOLLOWS):
        said = entry.cause or ("follows from an earlier stage" if entry.meaning == FOLLOWS else entry.what)
        ET.SubElement(case, "failure", message=_text(said), type=entry.meaning).text = _text(entry.line)
    elif entry.meaning == UNJUDGED:
        ET.SubElement(case, "skipped", message=_text(entry.line))
    else:
        ET.SubElement(case, "system-out").text = _text(entry.line)


def _count(suite: ET.Element, entries: list[Entry]) -> None:
    wrong = sum(entry.meaning in (WRONG, FOLLOWS) for entry in entries)
    skipped = sum(entry.meaning == UNJUDGED for entry in entries)
    for name, many in (("tests", len(entries)), ("failures", wrong), ("skipped", skipped)):
        suite.set(name, str(many))


def _verdict(root: ET.Element, sheet: Sheet) -> None:
    """The verdict as a case of its own, with all that it was reached by."""
    suite = ET.SubElement(root, "testsuite", name="verdict")
    properties = ET.SubElement(suite, "properties")
    rows: list[tuple[str, Any]] = [*sheet.said, *facts(sheet.about)]
    for name, value in rows:
        ET.SubElement(properties, "property", name=_text(name), value=_text(str(value)))
    meaning = RIGHT if sheet.passed else WRONG
    whole = Entry("verdict", "the whole", "right, and judged as far as was required", meaning, sheet.headline)
    _case(suite, sheet.command, whole)
    _count(suite, [whole])


def _text(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
