"""`ServedMLLM` against `transformers serve` with the demo's LLaVA, on loopback."""

import base64
import logging
import signal
import threading
import time

import pytest
import torch
from loopback import said, serving
from served_parts import free_port, ready_for, start

from ants_lightning import demo
from ants_lightning.mllm import ServedMLLM, TransformersMLLM

AVOID = ["star", "ring", "sailboat", "cup", "pine", "flag", "house"]


def ready(url, **settings):
    mllm = ServedMLLM(url, demo.LLAVA, **{"max_new_tokens": 16, "concurrency": 4, **settings})
    mllm.setup(torch.device("cpu"))
    return mllm


def test_the_server_says_what_the_model_says_here(server, small_demo):
    images = [small_demo.id_set[i][0] for i in range(7)]
    local = TransformersMLLM(demo.LLAVA, quantization="none", max_new_tokens=16)
    local.setup(torch.device("cpu"))
    assert ready(server).describe(images, AVOID) == local.describe(images, AVOID)
    assert ready(server).similar_classes(AVOID) == local.similar_classes(AVOID)
    asked = [None, images[0], None, images[1], None, None, None]
    same = {"similar_image_prompt": "Name {count} other classes that look like a {name}."}
    here = TransformersMLLM(demo.LLAVA, quantization="none", max_new_tokens=16, **same)
    here.setup(torch.device("cpu"))
    assert ready(server, **same).similar_classes(AVOID, 5, asked) == here.similar_classes(AVOID, 5, asked)


def test_a_whole_run_and_the_key_is_nowhere(server, run, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with caplog.at_level(logging.DEBUG, "ants_lightning"):
        mllm = ready(server)
        results = run(mllm)[2]
    for stream in results["streams"].values():
        assert stream["mllm_failures"] == 0 < stream["mllm_calls"] and stream["n_vsnl"] > 0
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert (
        b"very-secret" not in written
        and "very-secret" not in caplog.text
        and "very-secret" not in str(vars(mllm))
    )


def test_a_server_killed_midway_ends_in_results_with_the_failures_counted(run, small_demo):
    port = free_port()
    process = start(port)

    class Killed(ServedMLLM):
        """Kills its server before the second refresh."""

        calls = 0

        def describe(self, images, avoid):
            self.calls += 1
            if self.calls == 2:
                process.send_signal(signal.SIGKILL)
                process.wait()
            return super().describe(images, avoid)

    try:
        mllm = Killed(f"http://127.0.0.1:{port}/v1", demo.LLAVA, max_new_tokens=16, timeout=5, max_retries=1)
        results = run(mllm, schedule={"every": 1})[2]
    finally:
        process.kill()
    first, *others = results["streams"].values()
    assert 0 < first["mllm_failures"] < first["mllm_calls"] and first["n_vsnl"] > 0
    for stream in others:
        assert stream["mllm_failures"] == stream["mllm_calls"] > 0
        assert stream["mllm_recalled"] > 0 < stream["n_vsnl"]  # what was answered before is still there


def test_requests_that_fail_are_none_and_others_are_kept_and_the_bound_holds(small_demo, caplog):
    under_way, most, served, lock = [], [0], [0], threading.Lock()

    def answer(text, body):
        with lock:
            under_way.append(text)
            most[0] = max(most[0], len(under_way))
            served[0] += 1
            good = served[0] % 3 == 0
        time.sleep(0.05)
        with lock:
            under_way.remove(text)
        return said("a fox") if good else (400, {})

    with serving(answer) as server:
        answers = ready_for(server, concurrency=3).describe([small_demo.id_set[0][0]] * 12, ["star"] * 12)
    assert (
        answers.count("a fox") == 4
        and answers.count(None) == 8
        and "8 of 12" in caplog.text
        and "status 400" in caplog.text
    )
    assert 1 < most[0] <= 3


def test_names_are_asked_for_in_json_where_the_server_knows_how(small_demo):
    def answer(text, body):
        return said('{"names": ["wolf", "red fox"]}' if "response_format" in body else "a dog")

    with serving(answer) as server:
        mllm = ready_for(server)
        assert mllm.similar_classes(["fox", "cat"]) == [["wolf", "red fox"]] * 2
        assert mllm.describe([small_demo.id_set[0][0]], ["star"]) == ["a dog"]
        formats = [body.get("response_format", {}).get("type") for body in server.asked]
        assert formats == ["json_schema", "json_schema", None] and mllm.heard == "a dog"
        plain = ready_for(server, structured=False)
        plain.similar_classes(["fox"])
        assert "response_format" not in server.asked[-1] and plain.identity() != mllm.identity()


@pytest.mark.parametrize(
    "refusal", [(400, {"error": "what?"}), (422, {"detail": "?"}), (500, b"grammar"), said(None, "length")]
)
def test_a_server_that_does_not_know_how_is_asked_for_text_from_then_on(refusal, caplog):
    with serving(lambda text, body: refusal if "response_format" in body else said("wolf, fox")) as server:
        mllm = ready_for(server, concurrency=1)
        with caplog.at_level(logging.INFO, "ants_lightning"):
            assert mllm.similar_classes(["dog", "cat", "cow"]) == [["wolf", "fox"]] * 3
        assert ["response_format" in body for body in server.asked] == [True, False, False, False]
        assert caplog.text.count("no structured output") == 1


def test_a_server_that_refuses_for_another_reason_is_not_asked_twice():
    with serving(lambda text, body: (429, {"error": "slow down"})) as server:
        with pytest.raises(RuntimeError, match="slow down"):
            ready_for(server).similar_classes(["dog"])
        assert len(server.asked) == 1


def test_user_and_query_of_the_address_are_used_and_shown_nowhere(caplog):
    with serving(lambda text, body: (403, {"error": "not for hunter22 with sesame-sesame"})) as server:
        url = server.url.replace("://", "://me:hunter22@") + "?token=sesame-sesame"
        mllm = ServedMLLM(url, "m", max_retries=0)
        with caplog.at_level(logging.DEBUG, "ants_lightning"):
            mllm.setup(torch.device("cpu"))
            with pytest.raises(RuntimeError, match="status 403") as error:
                mllm.similar_classes(["fox"])
        asked = server.asked[0]
        assert asked["path"] == "/v1/chat/completions?token=sesame-sesame"
        assert asked["headers"]["authorization"] == "Basic " + base64.b64encode(b"me:hunter22").decode()
    for secret in ("hunter22", "sesame-sesame"):
        assert secret not in str(error.value) + caplog.text + str(mllm.identity())


@pytest.mark.parametrize("tag", ["llava", "llava:latest"])
def test_the_tag_that_a_server_implies_need_not_be_said(tag):
    models = {"data": [{"id": tag}, {"id": "qwen3-vl:4b"}]}
    with serving(None, models) as server:
        ready_for(server, "llava")
        for name, near in [("lava", tag), ("qwen3-vl", "qwen3-vl:4b"), ("llava:13b", tag)]:
            with pytest.raises(ValueError, match=f"no model '{name}'; it has {near}"):
                ready_for(server, name)
