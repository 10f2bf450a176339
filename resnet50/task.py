"""The ResNets' task: image classification, at any size."""

from __future__ import annotations

from lib.tasks import ImageClassification

__all__ = ["Task"]


class Task(ImageClassification):
    """Image classification; see `lib.tasks.ImageClassification`."""
