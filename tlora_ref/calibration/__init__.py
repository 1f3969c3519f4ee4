"""Runs a model over samples and gathers the statistics that Algorithm 1 needs."""

from tlora_ref.calibration.calibrate import add_samples, calibrate, calibration_memory, sample_inputs
from tlora_ref.calibration.saving import CALIBRATION_FILE
from tlora_ref.calibration.statistics import CalibrationStats
from tlora_ref.calibration.workers import processes

__all__ = [
    "CALIBRATION_FILE",
    "CalibrationStats",
    "add_samples",
    "calibrate",
    "calibration_memory",
    "processes",
    "sample_inputs",
]
