"""Weight files that are missing, torn, or only stand for others: told from headers, with the name of the
file.
"""

import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from ants_lightning import demo
from ants_lightning.mllm import TransformersMLLM
from ants_lightning.mllm.weights import check_cache, check_folder, pointers

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 14000000000\n"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The demo's LLaVA in several files."""
    folder = tmp_path_factory.mktemp("sharded")
    shutil.copytree(demo.LLAVA, folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    AutoModelForImageTextToText.from_pretrained(demo.LLAVA).save_pretrained(folder, max_shard_size="1MB")
    return folder


@pytest.fixture
def folder(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "parts")


@pytest.fixture
def single(tmp_path):
    return shutil.copytree(demo.LLAVA, tmp_path / "single")


def parts(folder):
    return sorted(folder.glob("model-*.safetensors"))


def set_up(folder):
    mllm = TransformersMLLM(folder, max_new_tokens=4)
    mllm.setup(torch.device("cpu"))
    return mllm


def tear(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_whole_models_in_one_file_and_in_several_say_the_same(folder, single):
    assert len(parts(folder)) > 2
    assert set_up(folder).similar_classes(["cup"]) == set_up(single).similar_classes(["cup"]) != [[]]


FAULTS = {
    "pointer": lambda path: path.write_text(POINTER),
    "torn by one byte": tear,
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<html>Sign in</html>"),
    "header only": lambda path: path.write_bytes(path.read_bytes()[:100]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_named_at_setup(single, folder, fault):
    last = parts(folder)[-1]
    for faulty, model in ((single / "model.safetensors", single), (last, folder)):
        FAULTS[fault](faulty)
        with pytest.raises(
            OSError, match=f"{faulty.name} .*{'git lfs pull' if fault == 'pointer' else 'torn'}"
        ) as caught:
            set_up(model)
        assert str(model) in str(caught.value)


def test_a_missing_part_is_named_at_setup(folder):
    lost = parts(folder)[1]
    lost.unlink()
    with pytest.raises(OSError, match=f"{INDEX} names {lost.name}, which is not there"):
        set_up(folder)
    lost.symlink_to(folder / "gone")  # as in a cache whose blobs were cleared
    with pytest.raises(OSError, match=lost.name):
        set_up(folder)


def test_a_part_of_another_model_is_named_at_setup(folder):
    save_file({"other": torch.zeros(2)}, parts(folder)[0])
    with pytest.raises(OSError, match=rf"{parts(folder)[0].name} lacks \d+ of the tensors"):
        set_up(folder)


@pytest.mark.parametrize("text", [POINTER, "{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_named_at_setup(folder, text):
    (folder / INDEX).write_text(text)
    with pytest.raises(OSError, match=f"{INDEX} is no index"):
        set_up(folder)


def test_no_weights_and_weights_of_other_forms(single):
    (single / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"no model.safetensors"):
        set_up(single)
    torch.save({}, single / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"pytorch_model.bin: only safetensors"):
        set_up(single)


def test_a_file_that_the_configuration_names(single):
    (single / "model.safetensors").rename(single / "mine.safetensors")
    with pytest.raises(OSError, match=r"but mine.safetensors"):
        check_folder(single)
    check_folder(single, "mine.safetensors")
    tear(single / "mine.safetensors")
    with pytest.raises(OSError, match=r"mine.safetensors cannot be read"):
        check_folder(single, "mine.safetensors")


def test_weights_that_are_in_no_file_are_an_error_when_loaded(single):
    """They would be random: the model would answer, but nonsense."""
    tensors = load_file(single / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("down_proj.weight"))
    del tensors[lost]
    save_file(tensors, single / "model.safetensors", {"format": "pt"})
    with pytest.raises(OSError, match=r"1 weights are in none of its files, such as .*down_proj.weight"):
        set_up(single).similar_classes(["cup"])


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "processor_config.json"])
@pytest.mark.parametrize("text", [POINTER, '{"a":'])
def test_other_files_that_cannot_be_read_are_an_oserror_at_setup(single, name, text):
    assert (single / name).is_file()
    (single / name).write_text(text)
    with pytest.raises(
        OSError, match=rf"{name} are git-lfs pointers" if text == POINTER else "cannot be read"
    ):
        set_up(single)
    assert pointers(single) == ([name] if text == POINTER else [])


def in_cache(monkeypatch, root, model):
    """Put a model into a cache of the hub, as far as it is there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    snapshot = root / "models--some--model" / "snapshots" / ("a" * 40)
    shutil.copytree(model, snapshot)
    (root / "models--some--model" / "refs").mkdir()
    (root / "models--some--model" / "refs" / "main").write_text("a" * 40)
    return snapshot


def test_of_a_hub_model_what_is_there_is_looked_at(folder, tmp_path, monkeypatch):
    snapshot = in_cache(monkeypatch, tmp_path / "cache", folder)
    check_cache("some/model", None)
    parts(snapshot)[1].unlink()  # still to come
    check_cache("some/model", None)
    check_cache("no/such", None)
    tear(parts(snapshot)[0])
    for revision in (None, "a" * 40):
        with pytest.raises(OSError, match=parts(snapshot)[0].name):
            check_cache("some/model", revision)
