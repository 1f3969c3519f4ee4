"""Training of B (or A and B, or every weight), evaluation, and resuming."""

from tlora_ref.training.evaluate import Evaluation, evaluate, likelihoods
from tlora_ref.training.loop import TrainResult, train
from tlora_ref.training.parameters import whole_tensors
from tlora_ref.training.settings import TrainSettings

__all__ = ["Evaluation", "TrainResult", "TrainSettings", "evaluate", "likelihoods", "train", "whole_tensors"]
