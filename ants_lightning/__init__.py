"""Zero-shot OOD detection at test time in PyTorch Lightning: ANTS (CVPR 2026)."""

from pathlib import Path

from ants_lightning.adapt.memory import NegativeMemory
from ants_lightning.adapt.settings import ENS, VSNL, HygieneSettings, Mining, Schedule
from ants_lightning.ants import ANTS
from ants_lightning.common.text import filter_loggers
from ants_lightning.run.predictions import PredictionWriter
from ants_lightning.run.report import Report
from ants_lightning.run.snapshots import Snapshots

__version__ = "0.1.0"
__all__ = [
    "ANTS",
    "ENS",
    "VSNL",
    "HygieneSettings",
    "Mining",
    "NegativeMemory",
    "PredictionWriter",
    "Report",
    "Schedule",
    "Snapshots",
]

filter_loggers(Path(__file__).parent)
