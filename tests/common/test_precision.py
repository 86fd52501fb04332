"""Lightning's precisions: the towers compute in them, features, scores, decisions and baselines in
float32.
"""

import copy

import lightning as L
import pytest
import torch
from small import SETTINGS
from test_columns import every, make_model

from ants_lightning import NegativeMemory, Report
from ants_lightning.demo.controls import PerfectCaptions

# By precision: how exact the features of a tower are, and so the scores: a cosine over τ = 0.04 goes into a
# sigmoid.
EXACT = {"64-true": 2e-6, "32-true": 1e-9, "16-true": 0.003, "bf16-true": 0.04, "bf16-mixed": 0.04}


@pytest.fixture(scope="module")
def outcome(small_demo, tmp_path_factory):
    """What a run in a precision gives: model, memory, results and the outputs of each batch; each
    precision once.
    """
    known = {}

    class Keep(L.Callback):
        def __init__(self):
            self.outputs = []

        def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            self.outputs.append(copy.deepcopy(outputs))

    def run(precision):
        if precision not in known:
            data = copy.copy(small_demo)
            data.ood_sets = {"scenes": small_demo.ood_sets["scenes"]}
            model, keep, report = make_model(baselines=every(), threshold=0.5), Keep(), Report()
            memory = NegativeMemory(PerfectCaptions(small_demo), **SETTINGS)
            L.Trainer(
                accelerator="cpu",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                precision=precision,
                callbacks=[memory, keep, report],
                default_root_dir=tmp_path_factory.mktemp(precision),
            ).test(model, data, verbose=False)
            known[precision] = model, memory, report.results, keep.outputs
        return known[precision]

    return run


@pytest.mark.parametrize("precision", EXACT)
def test_the_towers_alone_compute_in_the_precision(outcome, precision):
    model, _, results, outputs = outcome(precision)
    towers = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}.get(
        precision, torch.float32
    )
    assert {p.dtype for p in model.clip.parameters()} == {towers}
    texts = [
        model.spaces.id_text,
        model.spaces.neglabel.features,
        model.spaces.ens.features,
        model.spaces.vsnl.features,
        model.spaces._stacked[1],
    ]
    assert {text.dtype for text in texts} == {torch.float32} and min(map(len, texts)) > 0
    for name, baseline in model.baselines.items():
        kept = {
            buffer.dtype
            for key, buffer in baseline.named_buffers()
            if key not in ("entropies", "scores", "labels", "chosen")
        }
        assert kept <= {torch.float32}, name
    for out in outputs:
        assert out["features"].dtype == torch.float32
        torch.testing.assert_close(
            out["features"].norm(dim=1), torch.ones(len(out["features"])), atol=1e-5, rtol=0
        )
        assert {score.dtype for score in out["scores"].values()} <= {torch.float32, torch.float64}
    assert results["settings"]["model"]["precision"] == precision


@pytest.mark.parametrize("precision", EXACT)
def test_scores_and_metrics_are_those_of_float32_as_exactly_as_the_tower_is(outcome, precision):
    (_, _, wanted, then), (_, _, found, now) = outcome("32-true"), outcome(precision)
    exact = EXACT[precision]
    assert (now[0]["features"] - then[0]["features"]).norm(dim=1).max() < exact
    for name in (
        "mcm",
        "neglabel",
        "csp",
        "gl_mcm",
        "ens",
        "vsnl",
        "ants",
        "adaneg",
        "tanl",
    ):  # before anything is learnt
        assert (
            now[0]["scores"][name].double() - then[0]["scores"][name].double()
        ).abs().mean() <= exact / 4, name
    scores, before = (results["streams"]["scenes"]["scores"] for results in (found, wanted))
    for name in before:
        assert scores[name]["auroc"] == pytest.approx(before[name]["auroc"], abs=exact / 4), name
    assert set(scores) == set(before) and len({out["is_ood"].dtype for out in now}) == 1


def test_spaces_keep_their_values_when_a_module_is_cast_and_moved():
    model = make_model(class_names=["star", "ring"], baselines=every())
    model.setup("test")
    model.prepare()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not name.startswith("clip.")}
    dtypes = {name: buffer.dtype for name, buffer in model.named_buffers()}
    for cast in (model.bfloat16, model.half, model.double, lambda: model.to(torch.bfloat16), model.float):
        cast()
        for name, buffer in buffers.items():
            assert (
                torch.equal(model.get_buffer(name), buffer) and model.get_buffer(name).dtype == dtypes[name]
            ), name
    assert model.to("meta").spaces.id_text.device.type == "meta"
