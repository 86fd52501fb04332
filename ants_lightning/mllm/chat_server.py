"""`ChatServer`: questions over OpenAI's chat API, and in which words each failure is told."""

import asyncio
import base64
import contextlib
import difflib
import io
import logging
import math
from collections.abc import Sequence
from typing import Any

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI
from PIL.Image import Image

from ants_lightning.mllm.address import Address, api_key
from ants_lightning.mllm.base import Question
from ants_lightning.mllm.replies import NoAnswerError, model_names, read_answer, server_words
from ants_lightning.mllm.sending import Deadline, is_gone, reason, run_apart

logger = logging.getLogger(__name__)

NAMES_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "names",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"names": {"type": "array", "items": {"type": "string"}}},
            "required": ["names"],
            "additionalProperties": False,
        },
    },
}
_STAGGER = 0.01  # seconds from one new connection to the next: small servers reset those of a burst
_NO_FORMAT = (400, 404, 415, 422, 500, 501)  # statuses of servers that know no such format


class ChatServer:
    """A server and one of its models.

    Args:
        address: of the server.
        model: the name that the server knows it by.
        concurrency: how many requests are under way at a time.
        timeout: seconds for one request as a whole.
        max_retries: how often a request is repeated.
        structured: ask for names in JSON, until the server refuses.
        max_new_tokens: of an answer.
    """

    def __init__(
        self,
        address: Address,
        model: str,
        *,
        concurrency: int,
        timeout: float,
        max_retries: int,
        structured: bool,
        max_new_tokens: int,
    ) -> None:
        self.address, self.model, self.concurrency = address, model, concurrency
        self.timeout, self.max_retries, self.max_new_tokens = timeout, max_retries, max_new_tokens
        self._formats = structured

    def check(self) -> None:
        """Raise where the model cannot be asked; see `ServedMLLM`."""
        names = run_apart(self._look())
        if names and not {self.model, f"{self.model}:latest"} & set(names):
            near = difflib.get_close_matches(self.model, names, n=5, cutoff=0.4) or names[:5]
            where = self.address.where
            raise ValueError(f"the server at {where} has no model {self.model!r}; it has {', '.join(near)}")

    def answer(self, questions: Sequence[Question]) -> list[str | None]:
        """Answers in the order of the questions, None for each that failed; raises if all failed."""
        answers, errors = run_apart(self._answer(questions))
        if errors and all(answer is None for answer in answers):
            error = next((error for error in errors if is_gone(error)), errors[0])
            told = isinstance(error, APIStatusError)  # what a server says may hold the key
            raise self._explained(error) from (None if told else error)
        if errors:
            first = self._explained(errors[0])
            logger.warning("%d of %d questions failed, first: %s", answers.count(None), len(answers), first)
        return answers

    def _client(self, url: str | None = None, max_retries: int | None = None) -> AsyncOpenAI:
        user = self.address.user
        basic = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()} if user else {}
        return AsyncOpenAI(
            base_url=url or self.address.url,
            api_key=api_key(),
            default_headers=basic,
            default_query=self.address.query,
            max_retries=self.max_retries if max_retries is None else max_retries,
            timeout=self.timeout,
            http_client=Deadline(self.timeout),
        )

    async def _look(self) -> list[str] | None:
        """The models that the server has; None if it does not tell."""
        async with self._client() as client:
            try:
                names = await _models(client)
            except NoAnswerError as error:
                told = f"{self.address.url}/models is {error}{await self._hint()}"
                raise ValueError(self.address.without_secrets(told)) from None
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
        create = client.with_options(max_retries=0).chat.completions.with_raw_response.create
        try:
            await create(model=self.model, messages=[], max_tokens=1)
        except APIStatusError as error:
            self._check_key(error)
            if error.status_code in (404, 405):
                told = (
                    f"no chat API at {self.address.url}: it answers {error.status_code} to /chat/completions "
                    f"({server_words(error.response.text)}){await self._hint()}"
                )
                raise ValueError(self.address.without_secrets(told)) from None
        except APIConnectionError:  # it may be loading the model: the first question will tell
            where = self.address.where
            logger.warning("the server at %s tells no models, and did not answer an empty question", where)

    def _check_key(self, error: APIStatusError) -> None:
        if error.status_code in (401, 403):
            words = self.address.without_secrets(server_words(error.response.text))
            raise ConnectionError(
                f"the MLLM server at {self.address.where} lets nobody in with this key "
                f"(status {error.status_code}: {words}); the key is read from OPENAI_API_KEY"
            ) from None

    async def _hint(self) -> str:
        """Where there is a list of models, if not at this address."""
        for url in self.address.others():
            with contextlib.suppress(Exception):  # not there either
                async with self._client(url, max_retries=0) as client:
                    names = await _models(client)
                    if names:
                        return f"; but {url} has the models {', '.join(names[:5])}: set base_url to it"
        return "; base_url usually ends in /v1"

    async def _answer(self, questions: Sequence[Question]) -> tuple[list[str | None], list[Exception]]:
        """The answers, and the errors of the questions without one."""
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
                except Exception as error:  # whatever a client, a proxy or an image throws
                    errors.append(error)
                    if is_gone(error):
                        gone = gone or heard < began  # nobody was answered meanwhile
                        continue
                heard = now()

        async with self._client() as client:
            places = range(min(self.concurrency, len(questions)))
            await asyncio.gather(*(work(client, place) for place in places))
        return answers, errors

    async def _ask(self, client: AsyncOpenAI, question: Question) -> str:
        content: Any = question.text  # as plain text, which servers of text-only models take too
        if question.image is not None:
            url = await asyncio.to_thread(data_url, question.image)
            content = [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": question.text},
            ]
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens,
            "temperature": 0.0,
            "seed": 0,
        }
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
                where, why = self.address.where, self._explained(error)
                logger.info("%s gives no structured output, and is asked for text (%s)", where, why)
            return answer

    def _explained(self, error: Exception) -> Exception:
        """An error of the client in words, without key and password."""
        where = self.address.where
        if isinstance(error, APITimeoutError):
            tries = self.max_retries + 1
            return TimeoutError(
                f"no answer from the MLLM server at {where} within {self.timeout:g} s, asked {tries} times"
            )
        kind: type[Exception] = RuntimeError
        if isinstance(error, APIConnectionError):
            kind = ConnectionError
            told = f"the MLLM server at {where} cannot be reached: {reason(error)}"
        elif isinstance(error, APIStatusError):
            words = server_words(error.response.text)
            told = f"the MLLM server at {where} answers with status {error.status_code}: {words}"
        elif isinstance(error, NoAnswerError):
            told = f"a reply of the MLLM server at {where} holds no answer: {error}"
        else:
            told = f"a question to the MLLM server at {where} failed: {type(error).__name__}: {error}"
        return kind(self.address.without_secrets(told))


async def _models(client: AsyncOpenAI) -> list[str] | None:
    return model_names((await client.models.with_raw_response.list()).text)


def data_url(image: Image) -> str:
    """An image as a PNG data URL."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
