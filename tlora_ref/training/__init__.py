"""Training of B (or A and B, or every weight), evaluation, and resuming."""

from tlora_ref.training.evaluate import Evaluation, evaluate, likelihoods
from tlora_ref.training.history import HISTORY_FILE, append_history, read_history, write_history
from tlora_ref.training.loop import TrainResult, train
from tlora_ref.training.parameters import whole_tensors
from tlora_ref.training.settings import TrainSettings
from tlora_ref.training.state import STATE_FILE

__all__ = [
    "HISTORY_FILE",
    "STATE_FILE",
    "Evaluation",
    "TrainResult",
    "TrainSettings",
    "append_history",
    "evaluate",
    "likelihoods",
    "read_history",
    "train",
    "whole_tensors",
    "write_history",
]
