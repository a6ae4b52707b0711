"""Stands in for SDV where it is not installed: the attributes that are read, and nothing else."""
