from .adapter import Adapter, Plan, allocate, initialize
from .autograd import grad, gradcheck
from .calibration import CalibrationStats, calibrate
from .checkpoint import load_model, load_peft, save_model, save_peft, save_universal
from .data import load_tokenizer
from .errors import TLoRAError
from .method.switches import PROFILES, Switches
from .oracle import check_implementation, compare, trace
from .training import TrainSettings, evaluate, train

__version__: str

__all__ = [
    "PROFILES",
    "Adapter",
    "CalibrationStats",
    "Plan",
    "Switches",
    "TLoRAError",
    "TrainSettings",
    "allocate",
    "calibrate",
    "check_implementation",
    "compare",
    "evaluate",
    "grad",
    "gradcheck",
    "initialize",
    "load_model",
    "load_peft",
    "load_tokenizer",
    "save_model",
    "save_peft",
    "save_universal",
    "trace",
    "train",
]
