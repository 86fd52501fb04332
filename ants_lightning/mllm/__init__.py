"""Multimodal LLMs: what `NegativeMemory` asks of one, and the backends that answer."""

from ants_lightning.mllm.base import (
    DESCRIBE_PROMPT,
    MLLM,
    SIMILAR_IMAGE_PROMPT,
    SIMILAR_PROMPT,
    ChatMLLM,
    Question,
)
from ants_lightning.mllm.local import TransformersMLLM
from ants_lightning.mllm.record import ReplayMLLM
from ants_lightning.mllm.served import ServedMLLM

__all__ = [
    "DESCRIBE_PROMPT",
    "MLLM",
    "SIMILAR_IMAGE_PROMPT",
    "SIMILAR_PROMPT",
    "ChatMLLM",
    "Question",
    "ReplayMLLM",
    "ServedMLLM",
    "TransformersMLLM",
]
