"""Requests under a bound of time: servers that drip, hang, refuse and die; a wait that can be left."""

import logging
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
import torch
from loopback import said, serving

from ants_lightning.mllm import ServedMLLM
from ants_lightning.mllm.base import Question
from ants_lightning.mllm.sending import run_apart

TEN = [Question(f"question {i}") for i in range(10)]


def test_a_server_that_drips_is_left_after_the_time_out_and_asked_again():
    replies = iter([20.0, said("a bird")])
    start = time.monotonic()
    with serving(lambda text, body: next(replies)) as server:
        assert ServedMLLM(server.url, "m", timeout=1, max_retries=1).answer(TEN[:1]) == ["a bird"]
        assert 1 < time.monotonic() - start < 4 and len(server.asked) == 2
        while not server.left:  # the connection was closed, too
            assert time.monotonic() - start < 10
            time.sleep(0.1)


def test_a_server_that_never_ends_its_replies_is_a_time_out_within_all_tries():
    start = time.monotonic()
    with (
        serving(lambda text, body: 60.0) as server,
        pytest.raises(TimeoutError, match=r"127\.0\.0\.1.* 0.5 s.* 2 times") as error,
    ):
        ServedMLLM(server.url, "m", timeout=0.5, max_retries=1, concurrency=2).answer(TEN)
    assert (
        1 < time.monotonic() - start < 5 and len(server.asked) == 4
    )  # two workers, two tries; the others are not sent
    assert error.value.__cause__ is not None


def test_one_question_that_takes_too_long_costs_itself_while_others_are_answered():
    with serving(
        lambda text, body: 60.0 if text == "question 3" else time.sleep(0.2) or said("a bird")
    ) as server:
        answers = ServedMLLM(server.url, "m", timeout=0.7, max_retries=0, concurrency=2).answer(TEN)
    assert answers == ["a bird"] * 3 + [None] + ["a bird"] * 6


def test_a_server_that_refuses_connections_is_gone():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mllm = ServedMLLM(f"http://127.0.0.1:{port}/v1", "m", max_retries=1, concurrency=2)
    start = time.monotonic()
    for ask in (lambda: mllm.answer(TEN * 10), lambda: mllm.setup(torch.device("cpu"))):
        with pytest.raises(
            ConnectionError, match=rf"127\.0\.0\.1:{port} cannot be reached: connection refused"
        ) as error:
            ask()
        assert error.value.__cause__ is not None
    assert time.monotonic() - start < 6  # a few tries, not two for each of a hundred questions


def test_a_server_that_breaks_off_each_reply_is_told_of():
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        while True:
            try:
                connection = listener.accept()[0]
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
                connection.close()
            except OSError:
                return

    threading.Thread(target=hang_up, daemon=True).start()
    with listener, pytest.raises(ConnectionError, match=r"127\.0\.0\.1"):
        ServedMLLM(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", max_retries=0).answer(TEN[:2])


def test_names_and_certificates_that_are_not_accepted_are_told(tmp_path):
    with pytest.raises(ConnectionError, match=r"no-such-host\.invalid.*its name cannot be resolved"):
        ServedMLLM("http://no-such-host.invalid/v1", "m", max_retries=0).setup(torch.device("cpu"))
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run(
        [*make, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, stderr=subprocess.DEVNULL
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with (
        serving(None, context=context) as server,
        pytest.raises(ConnectionError, match="certificate is not accepted: self-signed"),
    ):
        ServedMLLM(server.url, "m", max_retries=0).setup(torch.device("cpu"))
    with serving(None) as server, pytest.raises(ConnectionError, match="no TLS with it"):
        ServedMLLM(server.url.replace("http", "https"), "m", max_retries=0).setup(torch.device("cpu"))


class Terminated(BaseException):
    """What a handler of SIGTERM raises."""


def test_a_signal_ends_the_wait_at_once_and_cancels_what_is_under_way():
    def raise_it(*args):
        raise Terminated

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        with serving(lambda text, body: 60.0) as server:
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            start = time.monotonic()
            with pytest.raises(Terminated):
                ServedMLLM(server.url, "m", timeout=60, concurrency=3).answer(TEN)
            assert 0.9 < time.monotonic() - start < 3 and len(server.asked) == 3  # seven were not sent
            while len(server.left) < 3:  # the three were closed
                assert time.monotonic() - start < 10
                time.sleep(0.1)
            assert len(server.asked) == 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_it_answers_where_a_loop_is_running_as_in_a_notebook():
    async def cell(url):
        return ServedMLLM(url, "m").answer(TEN[:3])

    with serving(lambda text, body: said(text)) as server:
        assert run_apart(cell(server.url)) == ["question 0", "question 1", "question 2"]


def test_more_requests_at_a_time_than_a_small_server_queues_are_all_answered():
    with serving(lambda text, body: said(text), queue=5) as server:
        mllm = ServedMLLM(server.url, "m", concurrency=64)
        assert mllm.at_once == 256
        assert mllm.answer(TEN * 10) == [question.text for question in TEN * 10]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503])
def test_a_status_on_every_question_is_told_with_the_servers_words_and_without_the_key(
    status, monkeypatch, caplog
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret\n")
    words = {"error": {"message": "no such thing for key sk-very-secret, \x1b[31m" + "sorry " * 99}}
    with (
        serving(lambda text, body: (status, words)) as server,
        caplog.at_level(logging.DEBUG, "ants_lightning"),
    ):
        with pytest.raises(RuntimeError, match=rf"127\.0\.0\.1.* status {status}: no such thing") as error:
            ServedMLLM(server.url, "m", max_retries=0).answer(TEN)
        assert server.asked[0]["headers"]["authorization"] == "Bearer sk-very-secret"
    assert (
        "very-secret" not in str(error.value) + caplog.text
        and len(str(error.value)) < 350
        and str(error.value).isprintable()
    )
    assert error.value.__suppress_context__ and error.value.__cause__ is None


def test_replies_that_hold_no_answer_to_any_question_are_told():
    with (
        serving(lambda text, body: said(None, finish="length")) as server,
        pytest.raises(RuntimeError, match="max_new_tokens"),
    ):
        ServedMLLM(server.url, "m").answer(TEN)
