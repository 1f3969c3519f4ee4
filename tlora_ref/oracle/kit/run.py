"""The kit's runner: `check_implementation`, and the same checks as pytest parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from tlora_ref.errors import ConfigError
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.causes import claim
from tlora_ref.oracle.implementation import STAGES
from tlora_ref.oracle.kit.calling import precision_of, stages_of, verdicts
from tlora_ref.oracle.kit.cases import FORMS
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.about import about, code
from tlora_ref.oracle.reports.checks import (
    EXPECTED,
    FAILED,
    PASSED,
    SKIPPED,
    UNEXPECTED,
    CheckResult,
    KitReport,
    reproduction,
)
from tlora_ref.oracle.verdict import Verdict, Wrong

if TYPE_CHECKING:
    from tlora_ref.oracle.kit.checks import Check


def all_checks() -> dict[str, Check]:
    """Every check by its identifier. (Hypothesis is imported here and not before: it is slow to import.)"""
    from tlora_ref.oracle.kit.checks import CHECKS

    return CHECKS


def check_implementation(
    implementation: object,
    *,
    profile: str = "paper",
    dtype: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    stages: Iterable[str] | None = None,
    examples: int = 20,
    seed: int | None = 0,
    shrink: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> KitReport:
    """Run every check of the stages that a candidate has over generated cases.

    Parameters
    ----------
    implementation : an object (or a module) with any of the functions of `implementation.Implementation`
    profile : the switches it is asked to follow, "paper" or "released"
    dtype : its precision; by default its attribute `dtype`, else "float64"
    expected_failures : {check id: reason}; such a check may fail, and is reported when it passes
    stages : the stages to check, by default every one that it has
    examples : cases a check
    seed : of the cases; None draws others each time
    shrink : look for the smallest failing case
    progress : called with (done, of, check id)

    Returns
    -------
    KitReport; `report.passed` is the verdict

    Raises
    ------
    ConfigError
        for an unknown id, stage, profile or dtype, a reason that is empty, or a candidate without any stage
    """
    checks, expected = _chosen(stages), _expected(expected_failures)
    if profile not in PROFILES:
        raise ConfigError(f'profile "{profile}" is unknown: expected {" or ".join(sorted(PROFILES))}')
    if examples < 1:
        raise ConfigError(f"examples={examples}: expected at least 1")
    precision, present = precision_of(implementation, dtype), stages_of(implementation)
    results = []
    for done, check in enumerate(checks):
        if progress is not None:
            progress(done, len(checks), check.id)
        if check.stage in present:
            search = Search(implementation, check, profile, precision, examples, seed)
            results.append(_settled(search.result(shrink=shrink), expected))
        else:
            results.append(CheckResult(check.id, check.note, SKIPPED, why=f"there is no {check.stage}: not checked"))
    report = KitReport(results, profile, precision.name)
    report.about = about({"cases": "generated", "examples": examples, "seed": seed}, code(implementation, present))
    if report.first_failing is not None and precision.name == "float64":
        first = [check for check in checks if check.stage == report.first_failing]
        coarser = [Search(implementation, c, profile, Precision.of("float32"), examples, seed) for c in first]
        report.right_as_float32 = all(search.result(shrink=False).status == PASSED for search in coarser)
    return report


def parametrize(
    implementation: object,
    *,
    profile: str = "paper",
    dtype: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    examples: int = 20,
    seed: int | None = 0,
) -> Callable[[Any], Any]:
    """A pytest decorator: the test function gets `check`, one a parameter, and calls it.

    Missing stages are skipped by name, expected failures are strict xfails with their reasons. Errors as
    `check_implementation`.

        @parametrize(MyTLoRA(), expected_failures={"loss/large-logits": "known overflow"})
        def test_conforms(check):
            check()
    """
    import pytest

    expected, present = _expected(expected_failures), stages_of(implementation)
    precision = precision_of(implementation, dtype)
    parameters = []
    for check in all_checks().values():
        marks = []
        if check.stage not in present:
            marks = [pytest.mark.skip(reason=f"there is no {check.stage}: not checked")]
        elif check.id in expected:
            marks = [pytest.mark.xfail(reason=expected[check.id], strict=True, raises=Wrong)]
        search = Search(implementation, check, profile, precision, examples, seed)
        parameters.append(pytest.param(search.insist, id=check.id, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _chosen(stages: Iterable[str] | None) -> list[Check]:
    """The checks of these stages; ConfigError for a stage that does not exist."""
    wanted = list(STAGES) if stages is None else list(stages)
    for stage in wanted:
        if stage not in STAGES:
            raise ConfigError(f'stage "{stage}" is unknown: expected {", ".join(STAGES)}')
    return [check for check in all_checks().values() if check.stage in wanted]


def _expected(expected_failures: Mapping[str, str] | None) -> dict[str, str]:
    """The expected failures; ConfigError for an id that no check has, or without a reason."""
    if not isinstance(expected_failures, Mapping | None):
        raise ConfigError(f"expected_failures is a {type(expected_failures).__name__}: expected {{check id: reason}}")
    expected, known = dict(expected_failures or {}), all_checks()
    for id, reason in expected.items():
        if id not in known:
            near = get_close_matches(id, known, n=3, cutoff=0.4)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f'expected failure "{id}" is no check{hint}')
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f'expected failure "{id}" has no reason: say why it fails')
    return expected


def _settled(result: CheckResult, expected: Mapping[str, str]) -> CheckResult:
    """The result in the light of what was expected."""
    if result.id not in expected or result.status == SKIPPED:
        return result
    status = EXPECTED if result.status == FAILED else UNEXPECTED
    return CheckResult(**{**vars(result), "status": status, "why": expected[result.id]})


class Search:
    """The cases of one check, run over one candidate."""

    def __init__(
        self, implementation: object, check: Check, profile: str, precision: Precision, examples: int, seed: int | None
    ) -> None:
        self.implementation, self.check, self.profile, self.precision = implementation, check, profile, precision
        self.examples, self.seed = examples, seed

    def wrong(self, inputs: Mapping[str, Any]) -> list[Verdict]:
        """The verdicts on a case that are not a pass."""
        found = verdicts(
            self.implementation,
            self.check.stage,
            inputs,
            switches=PROFILES[self.profile],
            precision=self.precision,
            refuses=self.check.refuses,
        )
        return [verdict for verdict in found if not verdict.passed]

    def each(self, visit: Callable[[dict[str, Any]], None]) -> None:
        """`visit` on every case, form by form."""
        for number, form in enumerate(FORMS):
            examples = (self.examples + len(FORMS) - 1 - number) // len(FORMS)  # one of each before a second of any
            self.of_form(form, examples, visit)

    def of_form(
        self, form: str, examples: int, visit: Callable[[dict[str, Any]], None], *, shrink: bool = False
    ) -> None:
        """`visit` on so many cases of one form; when it raises and `shrink` is set, again on smaller ones."""
        if examples < 1:
            return
        import hypothesis

        phases = [hypothesis.Phase.generate] + ([hypothesis.Phase.shrink] if shrink else [])
        configured = hypothesis.settings(
            max_examples=examples,
            phases=phases,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        test = configured(hypothesis.given(self.check.cases(self.precision, form))(visit))
        (test if self.seed is None else hypothesis.seed(len(FORMS) * self.seed + FORMS.index(form))(test))()

    def result(self, *, shrink: bool) -> CheckResult:
        """Whether the check passes; if not, its likely cause over all cases and the smallest case."""
        fits: list[dict[str, float]] = []
        failing: list[tuple[dict[str, Any], Verdict]] = []
        cases = 0

        def look(inputs: dict[str, Any]) -> None:
            nonlocal cases
            cases += 1
            wrong = self.wrong(inputs)
            if wrong:
                failing.append((inputs, wrong[0]))
                fits.extend(verdict.explained_by for verdict in wrong)

        try:
            self.each(look)
        except NotImplementedError:
            return CheckResult(self.check.id, self.check.note, SKIPPED, why=f"{self.check.stage} is not implemented")
        if not failing:
            return CheckResult(self.check.id, self.check.note, PASSED, cases)
        inputs, verdict = self.smallest(failing[0]) if shrink else failing[0]
        cause = claim(fits)
        verdict = replace(verdict, cause=cause)  # what the smallest case alone looks like says less than all of them
        again = reproduction(self.check.stage, inputs, self.precision.name, self.profile)
        return CheckResult(self.check.id, self.check.note, FAILED, cases, "", verdict, inputs, cause, again, fits)

    def smallest(self, found: tuple[dict[str, Any], Verdict]) -> tuple[dict[str, Any], Verdict]:
        """The smallest failing case that shrinking comes to, of the smallest form that has one."""
        import hypothesis

        def insist(inputs: dict[str, Any]) -> None:
            nonlocal found
            wrong = self.wrong(inputs)
            if wrong:
                found = inputs, wrong[0]
                raise Wrong(wrong[0].line())

        for form in reversed(FORMS):  # a square is the smallest
            try:
                self.of_form(form, self.examples, insist, shrink=True)
            except Wrong:
                break
            except hypothesis.errors.FlakyFailure:  # its answers differ from call to call: the last failing case stands
                break
        return found

    def insist(self) -> None:
        """For pytest: raise Wrong with the smallest case."""
        result = self.result(shrink=True)
        if result.status == SKIPPED:
            import pytest

            pytest.skip(result.why)
        if result.status == FAILED:
            raise Wrong(f"{result.line()}\nlikely cause: {result.cause or 'unknown'}\nreproduce:\n{result.reproduce}")
