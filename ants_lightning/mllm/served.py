"""An MLLM behind any server that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, Ollama, `transformers serve`."""

import base64
import io
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import torch
from openai import APIConnectionError, AuthenticationError, OpenAI, OpenAIError
from PIL.Image import Image

from ants_lightning.mllm.base import ChatMLLM, Question

logger = logging.getLogger(__name__)


class ServedMLLM(ChatMLLM):
    """Asks a server, several questions at a time; images go as PNG data URLs.

    The key is read from `OPENAI_API_KEY`, as the client does, and kept nowhere else; a server without keys needs none. A
    request that still fails after the client's own retries is a failed question; when the server does not answer at all, the
    questions left are not sent. A bad setting is a ValueError here, a server that cannot be reached a ConnectionError at set-up.

    Args:
        base_url: such as `http://localhost:8000/v1`.
        model: the name that the server knows it by.
        concurrency: requests under way at a time.
        timeout: seconds for one request.
        max_retries: of a request, with growing pauses.
        chat: the settings of `ChatMLLM`.
    """

    def __init__(
        self, base_url: str, model: str, concurrency: int = 16, timeout: float = 60.0, max_retries: int = 3, **chat: Any
    ) -> None:
        super().__init__(**chat)
        if urlsplit(base_url).scheme not in ("http", "https") or not urlsplit(base_url).hostname:
            raise ValueError(f"base_url must be like http://host:port/v1, got {base_url!r}")
        if concurrency < 1 or timeout <= 0 or max_retries < 0:
            raise ValueError(f"concurrency, timeout and max_retries out of range: {concurrency}, {timeout}, {max_retries}")
        self.base_url, self.name, self.concurrency = base_url, model, concurrency
        self.timeout, self.max_retries = timeout, max_retries

    def identity(self) -> dict[str, Any]:
        """See `ChatMLLM.identity`; of the server nothing."""
        return {"model": self.name, "revision": None, "quantization": "served", **super().identity()}

    def _client(self) -> OpenAI:
        key = os.environ.get("OPENAI_API_KEY", "none")  # the client insists on one, servers of one's own do not
        return OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.max_retries)

    def setup(self, device: torch.device) -> None:
        """Ask the server which models it has."""
        where = urlsplit(self.base_url).hostname
        try:
            with self._client() as client:
                names = [model.id for model in client.models.list().data]
        except (APIConnectionError, AuthenticationError) as error:
            raise ConnectionError(f"no MLLM server at {where}, or it lets nobody in: {type(error).__name__}") from None
        except OpenAIError:
            return  # a server without that list
        if names and self.name not in names:
            raise ValueError(f"the server at {where} has no model {self.name!r}; it has {', '.join(names[:5])}")

    def answer(self, questions: Sequence[Question]) -> list[str | None]:
        """See `ChatMLLM.answer`."""
        gone, errors = threading.Event(), list[OpenAIError]()

        def ask(question: Question) -> str | None:
            if gone.is_set():
                return None
            try:
                return self._ask(client, question)
            except OpenAIError as error:
                errors.append(error)
                if isinstance(error, APIConnectionError):  # time-outs are one kind of these
                    gone.set()
                return None

        with self._client() as client, ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(ask, questions))
        if errors and not any(answers):
            raise errors[0]
        if errors:
            logger.warning("%d of %d questions failed, first: %s", answers.count(None), len(answers), type(errors[0]).__name__)
        return answers

    def _ask(self, client: OpenAI, question: Question) -> str:
        content: Any = question.text  # as plain text, which servers of text-only models take too
        if question.image is not None:
            image = {"type": "image_url", "image_url": {"url": data_url(question.image)}}
            content = [image, {"type": "text", "text": question.text}]
        messages: Any = [{"role": "user", "content": content}]
        reply = client.chat.completions.create(
            model=self.name, messages=messages, max_tokens=self.max_new_tokens, temperature=0.0, seed=0
        )
        return reply.choices[0].message.content or "" if reply.choices else ""


def data_url(image: Image) -> str:
    """An image as a PNG data URL."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
