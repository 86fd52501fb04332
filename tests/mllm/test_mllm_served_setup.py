"""`ServedMLLM` at set-up, against servers of all kinds, on loopback."""

import pytest
import torch
from loopback import MODELS, said, serving
from served_parts import free_port, ready_for

from ants_lightning.mllm import ServedMLLM


@pytest.mark.parametrize(
    "models", [{"models": [{"name": "llava"}]}, {"data": []}, [], 5, (404, {}), (501, b"no"), (405, b"no")]
)
@pytest.mark.parametrize("chat", [(400, {"error": "no messages"}), (422, {}), (501, b"no"), said("")])
def test_a_server_without_a_list_of_models_passes_if_it_has_a_chat(models, chat):
    with serving(lambda text, body: chat, models) as server:
        ready_for(server)
        assert server.asked[0]["messages"] == []


def without_v1(path):
    return MODELS if path == "/v1/models" else (404, b"404 page not found")


@pytest.mark.parametrize("end", ["", "/", "/api", "/v1/chat/completions", "/v2"])
def test_an_address_without_v1_is_an_error_at_set_up_that_names_the_right_one(end):
    with serving(lambda text, body: (404, {"error": "what?"}), without_v1) as server:
        root = server.url.removesuffix("/v1")
        with pytest.raises(
            ValueError, match=rf"404 to /chat/completions \(what\?\); but {root}/v1 has the models m"
        ):
            ServedMLLM(root + end, "m", max_retries=0).setup(torch.device("cpu"))


@pytest.mark.parametrize("status", [404, 405])
def test_an_address_where_nothing_is_found_is_an_error_at_set_up(status):
    said_of_it = rf"{status} to /chat/completions \(nothing here\); base_url usually ends in /v1"
    with (
        serving(lambda text, body: (status, b"nothing here"), (404, b"no")) as server,
        pytest.raises(ValueError, match=said_of_it),
    ):
        ready_for(server)


@pytest.mark.parametrize(
    "page", [b"<!doctype html><title>Chat</title>", b"", b"Ollama is running", b'{"data": [{"id']
)
def test_a_web_page_in_place_of_the_api_is_told_with_address_and_content(page):
    with serving(None, page) as server, pytest.raises(ValueError) as error:
        ready_for(server)
    assert f"{server.url}/models is no JSON but: {page.decode() or 'nothing'}" in str(error.value)
    with (
        serving(None, lambda path: MODELS if path == "/v1/models" else page) as server,
        pytest.raises(ValueError) as error,
    ):
        ServedMLLM(server.url.removesuffix("/v1"), "m", max_retries=0).setup(torch.device("cpu"))
    assert f"but {server.url} has the models m" in str(error.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_lets_nobody_in_is_an_error_at_set_up_that_shows_no_key(status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    refusal = (status, {"error": {"message": "Incorrect API key provided: sk-very-secret"}})
    told = rf"{status}: Incorrect API key provided: ….*OPENAI_API_KEY"
    for models in (refusal, {"models": []}):
        with (
            serving(lambda text, body: refusal, models) as server,
            pytest.raises(ConnectionError, match=told) as error,
        ):
            ready_for(server)
        assert "very-secret" not in str(error.value) and error.value.__suppress_context__


def test_no_server_is_an_error_before_the_run_that_shows_no_password(monkeypatch):
    mllm = ServedMLLM(f"http://me:hunter2@127.0.0.1:{free_port()}/v1", "m", max_retries=0)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1") as error:
        mllm.setup(torch.device("cpu"))
    assert "hunter2" not in str(error.value) + str(error.value.__cause__) and "refused" in str(error.value)
    assert "hunter2" not in str(mllm.identity())


def test_a_model_that_the_server_lacks_is_named(server):
    with pytest.raises(ValueError, match="no model 'llava-13b'"):
        ServedMLLM(server, "llava-13b").setup(torch.device("cpu"))


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "localhost:8000"},
        {"base_url": "ftp://x/v1"},
        {"base_url": "http://x:y/v1"},
        {"base_url": "http:///v1"},
        {"concurrency": 0},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"max_retries": -1},
        {"structured": "maybe"},
    ],
)
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        ServedMLLM(**{"base_url": "http://localhost/v1", "model": "m", **settings})


def test_a_model_without_a_name_is_refused():
    with pytest.raises(ValueError, match="model must be the name"):
        ServedMLLM("http://localhost/v1", "")
