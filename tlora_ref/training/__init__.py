"""Training of B (or A and B, or every weight), evaluation, and resuming."""

from tlora_ref.training.evaluate import Evaluation, evaluate, held_out_batches, likelihoods
from tlora_ref.training.history import HISTORY_FILE, METRICS_FILE, read_history
from tlora_ref.training.keeping import out_of_patience
from tlora_ref.training.loop import TrainResult, step_batches, train
from tlora_ref.training.packing import check_packing
from tlora_ref.training.parameters import whole_tensors
from tlora_ref.training.settings import TrainSettings
from tlora_ref.training.state import STATE_FILE, planned_steps
from tlora_ref.training.steps import STEPS_FOLDER, check_step

__all__ = [
    "HISTORY_FILE",
    "METRICS_FILE",
    "STATE_FILE",
    "STEPS_FOLDER",
    "Evaluation",
    "TrainResult",
    "TrainSettings",
    "check_packing",
    "check_step",
    "evaluate",
    "held_out_batches",
    "likelihoods",
    "out_of_patience",
    "planned_steps",
    "read_history",
    "step_batches",
    "train",
    "whole_tensors",
]
