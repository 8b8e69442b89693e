"""Continued pre-training: the loss of `sft` on raw text, where every token is to be emitted."""

from finery.train.objectives.sft import NEEDS, denominators, loss

__all__ = ["NEEDS", "denominators", "loss"]
