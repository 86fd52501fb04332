"""`ServedMLLM` against a real server on loopback: `transformers serve` with the demo's LLaVA, unquantised."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from openai import OpenAIError

from ants_lightning import demo
from ants_lightning.mllm import ServedMLLM, TransformersMLLM

AVOID = ["star", "ring", "sailboat", "cup", "pine", "flag", "house"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(port):
    """A server process, once it answers."""
    command = [Path(sys.executable).with_name("transformers"), "serve", demo.LLAVA, "--port", str(port), "--dtype", "float32"]
    process = subprocess.Popen(
        [*map(str, command), "--device", "cpu"], env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return process
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
    raise TimeoutError("no server after two minutes")


@pytest.fixture(scope="module")
def server():
    port = free_port()
    process = start(port)
    yield f"http://127.0.0.1:{port}/v1"
    process.kill()


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
    assert b"very-secret" not in written and "very-secret" not in caplog.text and "very-secret" not in str(vars(mllm))


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
        results = run(mllm, refresh_every=1)[2]
    finally:
        process.kill()
    first, *others = results["streams"].values()
    assert 0 < first["mllm_failures"] < first["mllm_calls"] and first["n_vsnl"] > 0
    for stream in others:
        assert stream["mllm_failures"] == stream["mllm_calls"] > 0
        assert stream["mllm_recalled"] > 0 < stream["n_vsnl"]  # what was answered before is still there


class Flaky(BaseHTTPRequestHandler):
    """A server that answers every third request, and counts those under way at a time."""

    served = under_way = most = 0
    lock = threading.Lock()

    def do_GET(self):
        self.reply(200, b'{"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": ""}]}')

    def do_POST(self):
        with self.lock:
            Flaky.served += 1
            Flaky.under_way += 1
            Flaky.most = max(Flaky.most, Flaky.under_way)
            good = Flaky.served % 3 == 0
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.02)
        with self.lock:
            Flaky.under_way -= 1
        said = b'{"choices": [{"message": {"role": "assistant", "content": "a fox"}}]}'
        self.reply(*((200, said) if good else (400, b"{}")))

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def flaky():
    Flaky.served = Flaky.under_way = Flaky.most = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_requests_that_fail_are_none_and_others_are_kept_and_the_bound_holds(flaky, small_demo, caplog):
    mllm = ServedMLLM(flaky, "m", concurrency=3)
    mllm.setup(torch.device("cpu"))
    said = mllm.describe([small_demo.id_set[0][0]] * 12, ["star"] * 12)
    assert said.count("a fox") == 4 and said.count(None) == 8 and "8 of 12" in caplog.text
    assert 1 < Flaky.most <= 3


def test_when_all_fail_it_raises(flaky, small_demo):
    with pytest.raises(OpenAIError):
        ServedMLLM(flaky, "m").similar_classes(["fox", "cat"])


def test_a_dead_server_is_asked_once_by_each_worker_not_by_each_question(monkeypatch):
    mllm, asked, ask = ServedMLLM(f"http://127.0.0.1:{free_port()}/v1", "m", concurrency=2, max_retries=1), [], ServedMLLM._ask
    monkeypatch.setattr(ServedMLLM, "_ask", lambda *args: asked.append(args) or ask(*args))
    with pytest.raises(OpenAIError):
        mllm.similar_classes(["fox"] * 50)
    assert 1 <= len(asked) <= 2


def test_no_server_is_an_error_before_the_run_that_shows_no_password(monkeypatch):
    mllm = ServedMLLM(f"http://me:hunter2@127.0.0.1:{free_port()}/v1", "m", max_retries=0)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1") as error:
        mllm.setup(torch.device("cpu"))
    assert "hunter2" not in str(error.value) and error.value.__suppress_context__
    assert "hunter2" not in str(mllm.identity())


def test_a_model_that_the_server_lacks_is_named(server):
    with pytest.raises(ValueError, match="no model 'llava-13b'"):
        ServedMLLM(server, "llava-13b").setup(torch.device("cpu"))


@pytest.mark.parametrize(
    "settings",
    [{"base_url": "localhost:8000"}, {"base_url": "ftp://x/v1"}, {"concurrency": 0}, {"timeout": 0}, {"max_retries": -1}],
)
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        ServedMLLM(**{"base_url": "http://localhost/v1", "model": "m", **settings})
