"""Records a run of another implementation as a candidate's trace: by hand from any framework, by hooks from PyTorch."""

from tlora_ref.oracle.recorder.recorder import Recorder

__all__ = ["Recorder"]
