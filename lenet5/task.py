"""LeNet-5's task: to tell ten digits apart, at the 32x32 pixels that the network is made for."""

from __future__ import annotations

from lib.tasks import ImageClassification

__all__ = ["Task"]


class Task(ImageClassification):
    """Image classification; see `lib.tasks.ImageClassification`."""
