"""Fixtures of this folder."""

import pytest
from served_parts import free_port, start


@pytest.fixture(scope="module")
def server():
    port = free_port()
    process = start(port)
    yield f"http://127.0.0.1:{port}/v1"
    process.kill()
