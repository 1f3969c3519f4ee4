from .adapter import Adapter, Plan, allocate, initialize
from .autograd import grad, gradcheck
from .calibration import CalibrationStats, calibrate
from .checkpoint import export_adapter, find_model, load_model, load_peft, save_model, save_peft, save_universal
from .data import load_prompts, load_tokenizer
from .errors import TLoRAError
from .explanation import Explanation, explain
from .method.switches import PROFILES, Switches, resolve
from .oracle import assert_right, check_implementation, compare, trace
from .pipeline import (
    AdapterSettings,
    BatchLoss,
    Chat,
    DataSource,
    Preview,
    Prompting,
    Responder,
    Response,
    RowPreview,
    adapter_in_parts,
    calibrate_for,
    encode_question,
    finishes,
    first_batch_loss,
    is_bare_encoder,
    load_adapted,
    load_statistics,
    load_tokenizer_for,
    make_adapter,
    merge_checkpoint,
    preview,
    prompting_of,
    read_prompting,
    weightless_model,
    with_system,
)
from .planning import MemoryPlan, RunPlan, plan_memory, plan_run
from .reports import Summary, summarize
from .shipped import shipped_model
from .study import Study, load_study, run_study
from .tasks import Answering, Task, evaluate_task, load_task, task_rows
from .training import TrainSettings, evaluate, train
from .transformer import Model

__version__: str

__all__ = [
    "PROFILES",
    "Adapter",
    "AdapterSettings",
    "Answering",
    "BatchLoss",
    "CalibrationStats",
    "Chat",
    "DataSource",
    "Explanation",
    "MemoryPlan",
    "Model",
    "Plan",
    "Preview",
    "Prompting",
    "Responder",
    "Response",
    "RowPreview",
    "RunPlan",
    "Study",
    "Summary",
    "Switches",
    "TLoRAError",
    "Task",
    "TrainSettings",
    "adapter_in_parts",
    "allocate",
    "assert_right",
    "calibrate",
    "calibrate_for",
    "check_implementation",
    "compare",
    "encode_question",
    "evaluate",
    "evaluate_task",
    "explain",
    "export_adapter",
    "find_model",
    "finishes",
    "first_batch_loss",
    "grad",
    "gradcheck",
    "initialize",
    "is_bare_encoder",
    "load_adapted",
    "load_model",
    "load_peft",
    "load_prompts",
    "load_statistics",
    "load_study",
    "load_task",
    "load_tokenizer",
    "load_tokenizer_for",
    "make_adapter",
    "merge_checkpoint",
    "plan_memory",
    "plan_run",
    "preview",
    "prompting_of",
    "read_prompting",
    "resolve",
    "run_study",
    "save_model",
    "save_peft",
    "save_universal",
    "shipped_model",
    "summarize",
    "task_rows",
    "trace",
    "train",
    "weightless_model",
    "with_system",
]
