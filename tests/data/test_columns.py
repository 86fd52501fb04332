"""Baselines, label banks, caches and patch features in the real pass on the demo."""

import json

import lightning as L
import open_clip
import pytest
import torch
import torch.nn.functional as F
import yaml
from cli_parts import ROOT
from small import merged

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.baselines import CSP, EOE, GLMCM, TANL, AdaNeg, Baseline, Energy, MaxLogit
from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.towers import encode_with_patches, gives_patches
from ants_lightning.demo.controls import PerfectCaptions

COLUMNS = [
    "mcm",
    "neglabel",
    "max_logit",
    "energy",
    "gl_mcm",
    "csp",
    "eoe",
    "adaneg",
    "tanl",
    "ens",
    "vsnl",
    "ants",
]


def make_model(**settings):
    return ANTS(demo.CLIP, **merged(settings, demo.SETTINGS["model"]))


def every():
    return [MaxLogit(), Energy(), GLMCM(), CSP(), EOE(), AdaNeg(), TANL(labels=20)]


class Watched(PerfectCaptions):
    def __init__(self, data):
        super().__init__(data)
        self.texts = []

    def similar_classes(self, names, count=5, images=None):
        self.texts += names
        return super().similar_classes(names, count, images)


def test_every_baseline_is_a_column_and_changes_no_other(run, small_demo):
    mllm = Watched(small_demo)
    _, model, results = run(mllm, model=make_model(baselines=every()))
    plain = run(PerfectCaptions(small_demo))[2]
    for name, stream in results["streams"].items():
        assert list(stream["scores"]) == COLUMNS and stream["mllm_failures"] == 0
        for score, metrics in plain["streams"][name]["scores"].items():
            assert stream["scores"][score] == pytest.approx(metrics, abs=1e-9)
        assert len({json.dumps(metrics) for metrics in stream["scores"].values()}) == len(
            COLUMNS
        )  # no two are the same score
    assert set(model.class_names) <= set(mllm.texts) and model.baselines["eoe"].outlier_text.shape[0] > 20
    assert results["settings"]["adaneg"]["length"] >= 1 and results["settings"]["tanl"]["labels"] == 20


def test_energy_and_max_logit_are_those_of_the_batch():
    model = make_model(class_names=["star", "moon", "fish"], baselines=[MaxLogit(), Energy()])
    model.setup("predict")
    model.prepare()
    images = torch.rand(5, 3, 64, 64)
    logits = (model.encode(images)[0] @ model.spaces.id_text.T / model.hparams["temperature"]).double()
    scores = model(images)["scores"]
    torch.testing.assert_close(scores["max_logit"].double(), -logits.max(1).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores["energy"], -logits.exp().sum(1).log(), rtol=1e-5, atol=1e-5)


def test_without_an_mllm_the_columns_are_those_that_need_none(run, small_demo, tmp_path):
    memory, report = NegativeMemory(schedule={"every": 2}), Report()
    model = make_model(baselines=[AdaNeg(), TANL(labels=20), EOE()])
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[memory, report],
        default_root_dir=tmp_path,
    )
    trainer.test(model, small_demo, verbose=False)
    for stream in report.results["streams"].values():
        assert list(stream["scores"]) == ["mcm", "neglabel", "adaneg", "tanl", "eoe"]
        assert stream["n_ens"] == stream["mllm_calls"] == 0
        assert stream["scores"]["adaneg"] != stream["scores"]["neglabel"]
    assert len(model.baselines["adaneg"].images) > 0


def test_a_baseline_forgets_the_stream_before(run, small_demo):
    import copy

    alone = copy.copy(small_demo)
    alone.ood_sets = {"scenes": small_demo.ood_sets["scenes"]}
    both = [
        run(data=data, model=make_model(baselines=[AdaNeg(), TANL(labels=20)]))[2]
        for data in (small_demo, alone)
    ]
    for name in ("adaneg", "tanl"):
        found, expected = (results["streams"]["scenes"]["scores"][name] for results in both)
        assert found == pytest.approx(expected)


def test_settings_of_a_run_tell_lists_weights_precision_and_the_arguments_of_baselines(run, tmp_path):
    def told(model, mllm=None):
        return run(mllm, model=model)[2]["settings"]

    one = told(make_model(baselines=[AdaNeg(length=3), TANL(20), MaxLogit()]))
    assert one["model"]["negatives"]["nouns"].startswith(f"{len(demo.WORDS['nouns'])} (sha256 ")
    assert one["model"]["class_names"].startswith("24 (sha256 ") and one["model"]["precision"] == "32-true"
    assert one["adaneg"] == {
        "length": 3,
        "gamma": 0.5,
        "gap": 0.5,
        "sharpness": 5.5,
        "text_weight": 0.1,
        "num_groups": 5,
    }
    assert one["tanl"]["labels"] == 20 and set(one["tanl"]) == {
        "labels",
        "queue",
        "gap",
        "history",
        "step",
        "seed",
    }
    assert one["max_logit"] == {} and one["mllm"]["class"] == "PerfectCaptions"
    (tmp_path / "words.txt").write_text("\n".join(demo.WORDS["nouns"]))
    other = make_model(
        negatives={
            "nouns": str(tmp_path / "words.txt"),
            "adjectives": ["round", *demo.WORDS["adjectives"][1:]],
        }
    )
    with torch.no_grad():
        other.clip.logit_scale.mul_(1.5)
        other.clip.visual.attnpool.c_proj.bias.add_(1.0)
    two = told(other)["model"]
    unlike = {name for name in two if two[name] != one["model"][name]}
    negatives = two["negatives"], one["model"]["negatives"]
    assert unlike == {"negatives", "weights"}
    assert {name for name in negatives[0] if negatives[0][name] != negatives[1][name]} == {
        "adjectives"
    }  # the words of a file are those of a list


class Named(Baseline):
    name = "ens"


def test_baselines_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="two scores with the name 'ens'"):
        make_model(baselines=[Named()])
    with pytest.raises(ValueError, match="two scores with the name 'csp'"):
        make_model(baselines=[CSP(), CSP()])
    model = ANTS(demo.CLIP, class_names=["star"], baselines=[AdaNeg()])
    with pytest.raises(ValueError, match="adaneg needs negative labels"):
        model.setup("test")
    model = make_model(class_names=["star"], baselines=[GLMCM()])
    model.setup("test")
    model.prepare()
    with pytest.raises(ValueError, match="gl_mcm needs images"):
        model.predict_step({"features": F.normalize(torch.rand(2, 128), dim=1)}, 0)


def plain_vit_patches(visual, images):
    """The last block worked out by hand: each patch attends to itself alone, so softmax weights are 1."""
    x = visual._embeds(images)
    *before, block = visual.transformer.resblocks
    for layer in before:
        x = layer(x)
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).fill_diagonal_(0.0)
    normed = block.ln_1(x)
    x = x + block.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
    x = x + block.mlp(block.ln_2(x))
    return visual.ln_post(x)[:, 1:] @ visual.proj


@torch.no_grad()
@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "RN50"])
def test_patch_features_are_the_value_path_of_the_last_attention(name):
    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    config["vision_cfg"]["layers"] = 2 if "ViT" in name else [1, 1, 1, 1]
    config["text_cfg"]["layers"] = 1
    clip = open_clip.CLIP(**config).eval()
    images = torch.randn(2, 3, 224, 224)
    pooled, patches = encode_with_patches(clip.visual, images)
    assert gives_patches(clip.visual) and patches.shape == (2, 49, pooled.shape[1])
    torch.testing.assert_close(pooled, clip.encode_image(images))
    if "ViT" in name:
        expected = plain_vit_patches(clip.visual, images)
    else:
        pool, maps = clip.visual.attnpool, []
        handle = pool.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
        clip.visual(images)
        handle.remove()
        places = [maps[0][:, :, i, j] for i in range(7) for j in range(7)]
        expected = torch.stack([pool.c_proj(pool.v_proj(place)) for place in places], 1)
    torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-5)


def test_towers_without_patches_are_refused(monkeypatch):
    assert not gives_patches(open_clip.create_model("ViT-B-16-SigLIP", pretrained=None).visual)
    monkeypatch.setattr("ants_lightning.baselines.columns.gives_patches", lambda visual: False)
    with pytest.raises(ValueError, match="gl_mcm needs patch features, and ModifiedResNet gives none"):
        make_model(baselines=[GLMCM()])


def test_label_bank_of_a_run_is_read_edited_and_used(run, tmp_path):
    _, model, results = run()
    lines = (tmp_path / "labels.txt").read_text("utf-8").splitlines()
    assert lines == model.spaces.neglabel.labels
    again = run(model=make_model(negatives={"bank": str(tmp_path), "nouns": [], "adjectives": []}))[2]
    for name, stream in results["streams"].items():
        assert again["streams"][name]["scores"]["neglabel"] == stream["scores"]["neglabel"]
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "labels.txt").write_text("\n".join([*lines[3:], "the nice sailor."]), "utf-8")
    edited = make_model(negatives={"bank": str(tmp_path / "bank")}, class_names=["star"])
    edited.setup("test")
    edited.prepare()
    assert edited.spaces.neglabel.labels == [*lines[3:], "the nice sailor."]
    torch.testing.assert_close(
        edited.spaces.neglabel.features[:-1], model.spaces.neglabel.features[3:], rtol=1e-5, atol=1e-6
    )


def test_a_second_run_encodes_no_text(run, tmp_path, monkeypatch):
    results = run(model=make_model(text_cache=str(tmp_path / "texts")))[2]
    encoded = []
    encode = TextEncoder._encode
    monkeypatch.setattr(
        TextEncoder, "_encode", lambda self, texts: encoded.extend(texts) or encode(self, texts)
    )
    again = run(model=make_model(text_cache=str(tmp_path / "texts")))[2]
    assert encoded == [] and again["streams"]["scenes"]["scores"] == results["streams"]["scenes"]["scores"]
    run(model=make_model(text_cache=str(tmp_path / "others")))
    assert len(encoded) > 50


def test_wordnet_is_a_word_list(tmp_path):
    model = make_model(
        class_names=["star"], negatives={"nouns": "wordnet", "adjectives": "wordnet", "keep": 40}
    )
    model.setup("test")
    assert len(model.vocabulary) > 70_000 and "star" in model.vocabulary.nouns


def test_a_stream_of_several_sets_has_scores_of_each(run, small_demo):
    import copy

    data = copy.copy(small_demo)
    data.mix, data.groups = {"all": ["lookalikes", "scenes"]}, {"all": "mixed", "textures": "far"}
    results = run(data=data)[2]
    stream = results["streams"]["all"]
    assert (stream["n_id"], stream["n_ood"], stream["group"]) == (64, 128, "mixed")
    assert {name: part["n_ood"] for name, part in stream["sets"].items()} == {"lookalikes": 64, "scenes": 64}
    assert "sets" not in results["streams"]["textures"]
    # AUROC of the whole is the mean of those of its two sets, which are of one size.
    both = [part["scores"]["mcm"]["auroc"] for part in stream["sets"].values()]
    assert stream["scores"]["mcm"]["auroc"] == pytest.approx(sum(both) / 2)


def test_baselines_config_is_every_column(run):
    config = yaml.safe_load((ROOT / "configs/method/baselines.yaml").read_text())
    names = [entry["class_path"].rpartition(".")[2] for entry in config["model"]["baselines"]]
    assert names == [type(baseline).__name__ for baseline in every()]


def test_an_image_whose_patches_are_not_finite_is_left_out(monkeypatch):
    def poisoned(visual, images):
        features, patches = encode_with_patches(visual, images)
        patches[1, 2, 0] = torch.inf
        return features, patches

    monkeypatch.setattr("ants_lightning.clip.towers.encode_with_patches", poisoned)
    model = ANTS(demo.CLIP, pretrained=None, class_names=["star", "ring"], baselines=[GLMCM()])
    model.setup("predict")
    model.prepare()
    images = torch.stack([model.preprocess(image) for image, _ in demo.DrawnImages(["star"], 3, 0)])
    out = model.predict_step({"image": images, "index": torch.tensor([7, 8, 9])}, 0)
    assert (
        out["index"].tolist() == [7, 9]
        and out["scores"]["gl_mcm"].shape == (2,)
        and out["scores"]["gl_mcm"].isfinite().all()
    )
    assert out["lost"] == [{"index": 8, "label": -1, "path": "", "why": "NaN or Inf features"}]
