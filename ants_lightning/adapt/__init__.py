"""The callback `NegativeMemory` and its parts: the memory bank, the questions, the refresh."""
