"""One file a stage: what its output should be, how far rounding may carry it, and which known slip explains it."""
