"""From a score to OOD or not."""
