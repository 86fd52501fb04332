"""Settings of ordinary Python."""

NAMES = ["star", "ring"]
