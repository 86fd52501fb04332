"""An MLLM behind any server that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, Ollama, `transformers serve`."""

import asyncio
import base64
import contextlib
import difflib
import io
import logging
import math
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import torch
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from PIL.Image import Image

from ants_lightning.common.settings import plain
from ants_lightning.mllm.base import ChatMLLM, Question
from ants_lightning.mllm.replies import NoAnswerError, model_names, read_answer, server_words
from ants_lightning.mllm.sending import Deadline, is_gone, reason, run_apart

logger = logging.getLogger(__name__)

NAMES_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "names", "strict": True,
        "schema": {
            "type": "object", "properties": {"names": {"type": "array", "items": {"type": "string"}}},
            "required": ["names"], "additionalProperties": False,
        },
    },
}  # fmt: skip
_STAGGER = 0.01  # seconds from one new connection to the next: small servers reset those of a burst
_NO_FORMAT = (400, 404, 415, 422, 500, 501)  # statuses by which servers say that they know no such format


class ServedMLLM(ChatMLLM):
    """Asks a server, several questions at a time; images go as PNG data URLs.

    The key is read from `OPENAI_API_KEY`, as the client does, or is the user and password in `base_url`; it is kept nowhere else,
    and is in no message. A server without keys needs none.

    A request that still fails after the client's own retries, or whose reply holds no answer, is a failed question. When nobody
    answers any more, the questions left are not sent. If no question was answered, `answer` raises TimeoutError or ConnectionError
    where the server is gone, and else RuntimeError with what it said.

    A bad setting is a ValueError here. At set-up, a server that cannot be reached, or lets nobody in, is a ConnectionError with the
    cause; an address that is no chat API, and a model that the server does not have, a ValueError.

    Args:
        base_url: such as `http://localhost:8000/v1`.
        model: the name that the server knows it by.
        concurrency: requests under way at a time.
        timeout: seconds for one request as a whole, from connecting to the last byte.
        max_retries: of a request, with growing pauses.
        structured: ask for names in JSON; a server that does not know how is asked for text, as after the first such refusal.
        chat: the settings of `ChatMLLM`.
    """

    def __init__(
        self, base_url: str, model: str, concurrency: int = 16, timeout: float = 60.0, max_retries: int = 3,
        structured: bool = True, **chat: Any,
    ) -> None:  # fmt: skip
        super().__init__(**chat)
        concurrency, timeout, max_retries = plain((concurrency, timeout, max_retries))
        self._read_address(base_url)
        if not model:
            raise ValueError(f"model must be the name that the server knows it by, got {model!r}")
        if concurrency < 1 or not 0 < timeout < math.inf or max_retries < 0:
            raise ValueError(f"concurrency, timeout and max_retries out of range: {concurrency}, {timeout}, {max_retries}")
        self.base_url, self.name, self.concurrency = base_url, model, concurrency
        self.timeout, self.max_retries, self.structured = timeout, max_retries, structured
        self.at_once = 4 * concurrency
        self._formats = structured  # until the server says that it knows no such format

    def _read_address(self, base_url: str) -> None:
        """Take apart what may be shown and what may not: the address; user, password and query."""
        try:
            parts = urlsplit(base_url)
            host = parts.hostname if parts.port != 0 else None
        except ValueError:  # a port that is no number, a bracket that is not closed
            host = None
        if not host or parts.scheme not in ("http", "https"):
            raise ValueError(f"base_url must be like http://host:port/v1, got {_without_user(base_url)!r}")
        self._address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        self._where = parts.netloc.rpartition("@")[2]
        self._query = dict(parse_qsl(parts.query))
        self._user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if "@" in parts.netloc else ""

    def identity(self) -> dict[str, Any]:
        """See `ChatMLLM.identity`; of the server nothing."""
        own = {"model": self.name, "revision": None, "quantization": "served", "structured": self.structured}
        return {**own, **super().identity()}

    def _client(self, address: str | None = None, max_retries: int | None = None) -> AsyncOpenAI:
        basic = {"Authorization": "Basic " + base64.b64encode(self._user.encode()).decode()} if self._user else {}
        return AsyncOpenAI(
            base_url=address or self._address, api_key=_key(), default_headers=basic, default_query=self._query,
            max_retries=self.max_retries if max_retries is None else max_retries, timeout=self.timeout,
            http_client=Deadline(self.timeout),
        )  # fmt: skip

    def setup(self, device: torch.device) -> None:
        """Ask the server which models it has, and, where it does not tell, whether it can be asked at all."""
        names = run_apart(self._look())
        if names and not {self.name, f"{self.name}:latest"} & set(names):
            near = difflib.get_close_matches(self.name, names, n=5, cutoff=0.4)
            raise ValueError(f"the server at {self._where} has no model {self.name!r}; it has {', '.join(near or names[:5])}")

    async def _look(self) -> list[str] | None:
        """The models that the server has; None if it does not tell."""
        async with self._client() as client:
            try:
                names = await _models(client)
            except NoAnswerError as error:
                raise ValueError(self._tell(f"{self._address}/models is {error}{await self._hint()}")) from None
            except APIStatusError as error:
                self._check_key(error)
                names = None
            except APIConnectionError as error:
                raise self._explained(error) from error
            if names is None:
                await self._check_chat(client)
        return names

    async def _check_chat(self, client: AsyncOpenAI) -> None:
        """Raise where there is nothing to ask: an empty question costs a server nothing but a refusal."""
        try:
            await client.with_options(max_retries=0).chat.completions.with_raw_response.create(
                model=self.name, messages=[], max_tokens=1
            )
        except APIStatusError as error:
            self._check_key(error)
            if error.status_code in (404, 405):
                raise ValueError(self._tell(
                    f"no chat API at {self._address}: it answers {error.status_code} to /chat/completions "
                    f"({server_words(error.response.text)}){await self._hint()}"
                )) from None  # fmt: skip
        except APIConnectionError:  # it may be loading the model: the first question will tell
            logger.warning("the server at %s tells no models, and did not answer an empty question", self._where)

    def _check_key(self, error: APIStatusError) -> None:
        if error.status_code in (401, 403):
            words = self._tell(server_words(error.response.text))
            raise ConnectionError(
                f"the MLLM server at {self._where} lets nobody in with this key (status {error.status_code}: {words}); "
                "the key is read from OPENAI_API_KEY"
            ) from None

    async def _hint(self) -> str:
        """Where there is a list of models, if not at this address."""
        parts = urlsplit(self._address)
        short = self._address.removesuffix("/completions").removesuffix("/chat")
        for address in dict.fromkeys([f"{self._address}/v1", short, f"{parts.scheme}://{parts.netloc}/v1"]):
            if address != self._address:
                with contextlib.suppress(Exception):  # not there either
                    async with self._client(address, max_retries=0) as client:
                        names = await _models(client)
                        if names:
                            return f"; but {address} has the models {', '.join(names[:5])}: set base_url to it"
        return "; base_url usually ends in /v1"

    def answer(self, questions: Sequence[Question]) -> list[str | None]:
        """See `ChatMLLM.answer`."""
        answers, errors = run_apart(self._answer(questions))
        if errors and all(answer is None for answer in answers):
            error = next((error for error in errors if is_gone(error)), errors[0])
            told = isinstance(error, APIStatusError)  # what a server says may hold the key
            raise self._explained(error) from (None if told else error)
        if errors:
            logger.warning("%d of %d questions failed, first: %s", answers.count(None), len(answers), self._explained(errors[0]))
        return answers

    async def _answer(self, questions: Sequence[Question]) -> tuple[list[str | None], list[Exception]]:
        """The answers, and why those that lack do."""
        answers: list[str | None] = [None] * len(questions)
        errors = list[Exception]()
        now, heard, gone = asyncio.get_running_loop().time, -math.inf, False
        waiting = iter(enumerate(questions))

        async def work(client: AsyncOpenAI, place: int) -> None:
            nonlocal heard, gone
            await asyncio.sleep(place * _STAGGER)
            for i, question in waiting:
                if gone:
                    return
                began = now()
                try:
                    answers[i] = await self._ask(client, question)
                except Exception as error:  # whatever a client, a proxy or an image throws costs this answer
                    errors.append(error)
                    if is_gone(error):
                        gone = gone or heard < began  # nobody was answered meanwhile
                        continue
                heard = now()

        async with self._client() as client:
            await asyncio.gather(*(work(client, place) for place in range(min(self.concurrency, len(questions)))))
        return answers, errors

    async def _ask(self, client: AsyncOpenAI, question: Question) -> str:
        content: Any = question.text  # as plain text, which servers of text-only models take too
        if question.image is not None:
            image = {"type": "image_url", "image_url": {"url": await asyncio.to_thread(data_url, question.image)}}
            content = [image, {"type": "text", "text": question.text}]
        asked: dict[str, Any] = {
            "model": self.name, "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens, "temperature": 0.0, "seed": 0,
        }  # fmt: skip
        create: Any = client.chat.completions.with_raw_response.create
        if not (question.names and self._formats):
            return read_answer((await create(**asked)).text)
        try:
            return read_answer((await create(**asked, response_format=NAMES_FORMAT)).text)
        except (APIStatusError, NoAnswerError) as error:
            if isinstance(error, APIStatusError) and error.status_code not in _NO_FORMAT:
                raise
            answer = read_answer((await create(**asked)).text)
            if self._formats:
                self._formats = False
                logger.info("%s gives no structured output, and is asked for text (%s)", self._where, self._explained(error))
            return answer

    def _explained(self, error: Exception) -> Exception:
        """An error of the client in words, without key and password."""
        if isinstance(error, APITimeoutError):
            return TimeoutError(f"no answer from the MLLM server at {self._where} within {self.timeout:g} s, "
                                f"asked {self.max_retries + 1} times")  # fmt: skip
        if isinstance(error, APIConnectionError):
            return ConnectionError(self._tell(f"the MLLM server at {self._where} cannot be reached: {reason(error)}"))
        if isinstance(error, APIStatusError):
            words = server_words(error.response.text)
            return RuntimeError(self._tell(f"the MLLM server at {self._where} answers with status {error.status_code}: {words}"))
        if isinstance(error, NoAnswerError):
            return RuntimeError(self._tell(f"a reply of the MLLM server at {self._where} holds no answer: {error}"))
        return RuntimeError(self._tell(f"a question to the MLLM server at {self._where} failed: {type(error).__name__}: {error}"))

    def _tell(self, text: str) -> str:
        for secret in (_key(), self._user.partition(":")[2], *self._query.values()):
            if len(secret) > 4:  # shorter ones are words of other meaning, such as "none"
                text = text.replace(secret, "…")
        return text


async def _models(client: AsyncOpenAI) -> list[str] | None:
    return model_names((await client.models.with_raw_response.list()).text)


def _key() -> str:
    """The client insists on one, servers of one's own do not."""
    return os.environ.get("OPENAI_API_KEY", "").strip() or "none"


def _without_user(url: str) -> str:
    start, _, end = str(url).rpartition("@")
    return f"{start.partition('://')[0]}://…@{end}" if start else end


def data_url(image: Image) -> str:
    """An image as a PNG data URL."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
