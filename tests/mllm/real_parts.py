"""Photographs and models of the real classes."""

from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"


PACK, FEATURES = DATA / "openood_pack", DATA / "clip_vitb32_features.npz"
