"""Zero-shot OOD detection at test time in PyTorch Lightning: ANTS (CVPR 2026)."""

from pathlib import Path

from ants_lightning.inert import filter_loggers
from ants_lightning.memory import NegativeMemory
from ants_lightning.module import ANTS
from ants_lightning.predictions import PredictionWriter
from ants_lightning.report import Report
from ants_lightning.snapshots import Snapshots

__version__ = "0.1.0"
__all__ = ["ANTS", "NegativeMemory", "PredictionWriter", "Report", "Snapshots"]

filter_loggers(Path(__file__).parent)
