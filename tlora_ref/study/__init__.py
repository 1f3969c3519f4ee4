"""Studies: grids of runs, declared as data, that compare variants fairly."""

from tlora_ref.study.declaration import Cell, Rows, Study, load_study, study_of
from tlora_ref.study.results import Results, holds_results, read_results
from tlora_ref.study.run import Work, run_study, work_of, works_of
from tlora_ref.study.variants import VARIANTS, Variant

__all__ = [
    "VARIANTS",
    "Cell",
    "Results",
    "Rows",
    "Study",
    "Variant",
    "Work",
    "holds_results",
    "load_study",
    "read_results",
    "run_study",
    "study_of",
    "work_of",
    "works_of",
]
