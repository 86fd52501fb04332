"""Processes that write to the folder of a run."""

from ants_lightning.common.run_folder import RunFolder


def again(folder):
    """The folder as the next run sees it."""
    folder.release("a run")
    later = RunFolder(folder.path)
    later.claim("a run")
    later.release("a run")
    return later
