"""What Algorithm 1 produces: a `Plan` of ranks and scales, and an `Adapter` of matrices."""

from tlora_ref.adapter.allocate import UNIFORM_SCALES, allocate
from tlora_ref.adapter.initialize import INITS, initialize
from tlora_ref.adapter.matrices import Adapter
from tlora_ref.adapter.plan import Plan

__all__ = ["INITS", "UNIFORM_SCALES", "Adapter", "Plan", "allocate", "initialize"]
