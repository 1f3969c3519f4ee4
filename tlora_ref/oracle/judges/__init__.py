"""One judge a stage: what the output should be, how far rounding may carry it, and which known slip explains it."""
