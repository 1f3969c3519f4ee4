"""What an adapter and a run will take, before anything large is read: parameters, memory and time."""

from tlora_ref.planning.memory import MemoryPlan, plan_memory
from tlora_ref.planning.run import RunPlan, plan_run

__all__ = ["MemoryPlan", "RunPlan", "plan_memory", "plan_run"]
