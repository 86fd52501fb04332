"""The decision: from an OOD score to OOD or not."""
