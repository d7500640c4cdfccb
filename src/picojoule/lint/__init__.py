"""`pj doctor model.py:net`: traps of spiking networks in a user's file, found by reading and running it."""

from picojoule.lint.findings import LEVELS, Finding
from picojoule.lint.source import check_source

__all__ = ["LEVELS", "Finding", "check_source"]
