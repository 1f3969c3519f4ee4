"""Golden traces and candidates' traces: their format, and what writes and reads it. (`tr.trace` records one.)"""

from tlora_ref.oracle.traces.manifest import Manifest
from tlora_ref.oracle.traces.names import MANIFEST, TENSORS
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.oracle.traces.writer import TraceWriter

__all__ = ["MANIFEST", "TENSORS", "Manifest", "Trace", "TraceWriter"]
