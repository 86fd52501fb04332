"""An MLLM behind any server that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, Ollama and others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ants_lightning.common.settings import check_counts, check_flags, check_positive, check_whole, plain
from ants_lightning.mllm.address import Address
from ants_lightning.mllm.base import ChatMLLM, Question

if TYPE_CHECKING:
    from ants_lightning.mllm.chat_server import ChatServer


class ServedMLLM(ChatMLLM):
    """Asks a server, several questions at a time. Images go as PNG data URLs.

    The key is read from `OPENAI_API_KEY`, as the client does, or is the user and password in `base_url`. It
    is kept nowhere else, and no message shows it. A server without keys needs none.

    A request that still fails after the client's own retries, or whose reply holds no answer, is a failed
    question. Once nobody answers any more, the questions left are not sent. If no question was answered,
    `answer` raises TimeoutError or ConnectionError where the server is gone, and otherwise RuntimeError with
    the server's words.

    Args:
        base_url: such as `http://localhost:8000/v1`.
        model: the name that the server knows it by.
        concurrency: how many requests are under way at a time.
        timeout: seconds for one request as a whole, from connecting to the last byte.
        max_retries: how often a request is repeated, with growing pauses.
        structured: ask for names in JSON. After the first refusal of that, the server is asked for text.
        chat: the settings of `ChatMLLM`.

    Raises:
        ValueError: for a setting out of range; at set-up, for an address that is no chat API, or a model that
            the server does not have.
        ConnectionError: at set-up, where the server cannot be reached, or lets nobody in.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        concurrency: int = 16,
        timeout: float = 60.0,
        max_retries: int = 3,
        structured: bool = True,
        **chat: Any,
    ) -> None:
        super().__init__(**chat)
        concurrency, timeout, max_retries, structured = plain((concurrency, timeout, max_retries, structured))
        self.address = Address(base_url)
        if not model:
            raise ValueError(f"model must be the name that the server knows it by, got {model!r}")
        check_counts(concurrency=concurrency)
        check_positive(timeout=timeout)
        check_whole(0, max_retries=max_retries)
        check_flags(structured=structured)
        self.base_url, self.name, self.concurrency = base_url, model, concurrency
        self.timeout, self.max_retries, self.structured = timeout, max_retries, structured
        self.at_once = 4 * concurrency
        self._server: ChatServer | None = None

    def identity(self) -> dict[str, Any]:
        """See `ChatMLLM.identity`. The server's address is no part of it."""
        own = {
            "model": self.name,
            "revision": None,
            "quantization": "served",
            "structured": self.structured,
        }
        return {**own, **super().identity()}

    @property
    def server(self) -> "ChatServer":
        """The connection to the server; its library, which takes seconds to load, is loaded at first use."""
        if self._server is None:
            from ants_lightning.mllm.chat_server import ChatServer

            self._server = ChatServer(
                self.address,
                self.name,
                concurrency=self.concurrency,
                timeout=self.timeout,
                max_retries=self.max_retries,
                structured=self.structured,
                max_new_tokens=self.max_new_tokens,
            )
        return self._server

    def setup(self, device: torch.device) -> None:
        """Ask the server which models it has, or, where it does not tell, whether it can be asked at all."""
        self.server.check()

    def answer(self, questions: Sequence[Question]) -> list[str | None]:
        """See `ChatMLLM.answer`."""
        return self.server.answer(questions)
