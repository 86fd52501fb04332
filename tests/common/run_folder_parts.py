"""Processes that write to the folder of a run."""

from ants_lightning.common.run_folder import RunFolder

A_RUN = "a run"  # who holds a folder is told by identity


def again(folder):
    """The folder as the next run sees it."""
    folder.release(A_RUN)
    later = RunFolder(folder.path)
    later.claim(A_RUN)
    later.release(A_RUN)
    return later
