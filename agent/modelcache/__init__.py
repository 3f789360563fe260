"""The model cache agent: LLM weights on a node's local disk before a pod needs them."""

__version__ = "0.1.0"
