"""OOD scores of other papers, from the same pass: columns of the table beside those of ANTS."""

from ants_lightning.baselines.adaneg import AdaNeg
from ants_lightning.baselines.base import Baseline, Seen, confident
from ants_lightning.baselines.csp import CSP
from ants_lightning.baselines.eoe import EOE
from ants_lightning.baselines.id_texts import GLMCM, Energy, MaxLogit
from ants_lightning.baselines.tanl import TANL, activated, activation_aware_score, mean_activation, otsu_threshold

__all__ = [
    "CSP", "EOE", "GLMCM", "TANL", "AdaNeg", "Baseline", "Energy", "MaxLogit", "Seen",
    "activated", "activation_aware_score", "confident", "mean_activation", "otsu_threshold",
]  # fmt: skip
