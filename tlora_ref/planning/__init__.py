"""What an adapter will take, before anything large is read: parameters, memory and time, from config.json alone."""

from tlora_ref.planning.memory import MemoryPlan, plan_memory
from tlora_ref.planning.time import TimePlan, plan_time
from tlora_ref.planning.training import TrainingPlan, mean_tokens, padded_tokens, plan_training

__all__ = [
    "MemoryPlan",
    "TimePlan",
    "TrainingPlan",
    "mean_tokens",
    "padded_tokens",
    "plan_memory",
    "plan_time",
    "plan_training",
]
