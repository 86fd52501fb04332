"""OOD scores of other papers: columns of the table beside those of ANTS, computed in the same pass."""

from ants_lightning.baselines.adaneg import AdaNeg
from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.baselines.csp import CSP
from ants_lightning.baselines.eoe import EOE
from ants_lightning.baselines.id_texts import GLMCM, Energy, MaxLogit
from ants_lightning.baselines.tanl import TANL

__all__ = [
    "CSP",
    "EOE",
    "GLMCM",
    "TANL",
    "AdaNeg",
    "Baseline",
    "DetectorInputs",
    "Energy",
    "MaxLogit",
    "Seen",
]
