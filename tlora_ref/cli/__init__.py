"""The commands: argument handling and printing, nothing else."""
