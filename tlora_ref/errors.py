"""The one family of exceptions.

Every message says what is wrong, where, what was expected and how to mend it. The command line prints the message alone
and exits with status 2; a caller who wants to catch whatever this library refuses catches `TLoRAError`.
"""

from __future__ import annotations


class TLoRAError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(TLoRAError):
    """A setting, switch, flag or model configuration is unknown, contradictory or out of range."""


class CheckpointError(TLoRAError):
    """A model or adapter folder is missing something, is damaged, or holds what cannot be used."""


class DataError(TLoRAError):
    """A dataset, a row or a sample is not what was expected."""


class ShapeError(TLoRAError):
    """An array has the wrong shape or dtype."""


class GraphError(TLoRAError):
    """The autograd graph was asked for something it does not hold."""


class NumericsError(TLoRAError):
    """A number is not finite, or a quantity is undefined for these numbers."""


class DeviceError(TLoRAError):
    """The device asked for, or the library that drives it, is not there."""


class OutputError(TLoRAError):
    """A result cannot be written where it was asked for."""
