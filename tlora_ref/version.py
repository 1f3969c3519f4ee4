"""The version of this library, where everything can read it without importing NumPy."""

__version__ = "0.1.0"
