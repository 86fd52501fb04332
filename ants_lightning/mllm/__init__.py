"""Multimodal LLMs: what `NegativeMemory` asks of one, and the backends that answer."""

from ants_lightning.mllm.base import DESCRIBE_PROMPT, MLLM, SIMILAR_PROMPT
from ants_lightning.mllm.local import TransformersMLLM

__all__ = ["DESCRIBE_PROMPT", "MLLM", "SIMILAR_PROMPT", "TransformersMLLM"]
