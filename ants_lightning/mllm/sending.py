"""Requests to a server under a bound of time, from a thread that can be left at any moment."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from openai import APIConnectionError, APITimeoutError, DefaultAsyncHttpxClient

try:  # the HTTP library of the client, by its version
    from httpx2 import ConnectError, ReadTimeout
except ImportError:
    from httpx import ConnectError, ReadTimeout  # type: ignore[no-redef]

T = TypeVar("T")


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, run in a thread of its own: a notebook has an event loop running already.

    An exception here, such as Ctrl-C or SIGTERM while it is waited for, cancels the coroutine and all that it
    waits for, and is raised at once: a name that is being resolved cannot be cancelled, and is not waited
    for.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def turn() -> None:
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()  # does not wait for the loop's own threads

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(1.0)  # with a bound, so that signals come through on every system
    except BaseException:
        with contextlib.suppress(RuntimeError):  # it has ended by now
            loop.call_soon_threadsafe(task.cancel)
        thread.join(1.0)
        raise
    return task.result()


class Deadline(DefaultAsyncHttpxClient):
    """An HTTP client whose requests end within so many seconds as a whole.

    The library's own time-outs bound a single read, so that a server that sends a byte now and then would
    hold a question for ever.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=seconds)
        self._seconds = seconds

    async def send(self, request: Any, **options: Any) -> Any:
        """Send, and read the reply to its end; raise the library's time-out where that takes too long."""
        try:
            return await asyncio.wait_for(super().send(request, **options), self._seconds)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise ReadTimeout(f"no whole reply within {self._seconds:g} s", request=request) from error


def is_gone(error: Exception) -> bool:
    """Whether a request failed because nobody answers at all."""
    return isinstance(error, APITimeoutError) or (
        isinstance(error, APIConnectionError)
        and any(isinstance(cause, ConnectError) for cause in _causes(error))
    )


def reason(error: BaseException) -> str:
    """Why there was no connection, in words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message or cause}"
        if isinstance(cause, ssl.SSLError):
            return f"no TLS with it ({cause.reason or cause}): is it http:// rather than https://?"
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be resolved: {cause.strerror or cause}"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused: nothing listens there"
    return next((f"{type(cause).__name__} {cause}".strip() for cause in causes[1:]), type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came from, down to the first cause."""
    seen, waiting = set[int](), [error]
    while waiting:
        error = waiting.pop()
        if id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += getattr(error, "exceptions", ())  # of a group
            waiting += [cause for cause in (error.__context__, error.__cause__) if cause is not None]
