"""Scores on real CLIP features."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from real_parts import FEATURES
from sklearn.metrics import roc_auc_score

from ants_lightning.method.scores import mcm_score
from ants_lightning.metrics import detection_metrics


@pytest.mark.skipif(not FEATURES.is_file(), reason=f"no CLIP features at {FEATURES}")
def test_mcm_on_real_clip_features():
    with np.load(FEATURES) as file:
        keys = ("imagenet_text_b", "imagenet_img", "dtd_test_img")
        text, known, unknown = (F.normalize(torch.from_numpy(file[key]).float(), dim=1) for key in keys)
    scores = mcm_score(torch.cat([known, unknown]), text, temperature=1.0)
    is_ood = torch.arange(len(scores)) >= len(known)
    found = detection_metrics(scores, is_ood)
    assert 100 * found["auroc"] == pytest.approx(85.2, abs=0.1)
    assert 100 * found["fpr95"] == pytest.approx(59.4, abs=0.1)


@pytest.mark.skipif(not FEATURES.is_file(), reason=f"no CLIP features at {FEATURES}")
def test_baselines_on_real_clip_features_through_the_feature_path(tmp_path):
    run = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/real_features.py"))["run"]
    results, _ = run(FEATURES, batch_size=256, names=["dtd"], root=tmp_path)
    stream = results["streams"]["dtd"]
    assert (stream["n_id"], stream["n_ood"]) == (4000, 1692)
    assert list(stream["scores"]) == ["mcm", "neglabel", "max_logit", "energy", "adaneg", "tanl"]
    assert 100 * stream["scores"]["mcm"]["auroc"] == pytest.approx(85.2, abs=0.1)
    assert 100 * stream["scores"]["mcm"]["fpr95"] == pytest.approx(59.4, abs=0.1)
    assert stream["scores"]["tanl"]["auroc"] > stream["scores"]["neglabel"]["auroc"]
    with np.load(FEATURES) as file:  # energy and max-logit again, from NumPy
        text, known, unknown = (
            file[key].astype(np.float64) for key in ("imagenet_text_b", "imagenet_img", "dtd_test_img")
        )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, known, unknown)]
    logits = np.concatenate(unit[1:]) @ unit[0].T / 0.01
    is_ood = np.arange(len(logits)) >= len(known)
    for name, score in (("max_logit", -logits.max(1)), ("energy", -np.logaddexp.reduce(logits, axis=1))):
        assert stream["scores"][name]["auroc"] == pytest.approx(roc_auc_score(is_ood, score), abs=1e-5)
