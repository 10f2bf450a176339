"""Data sets: images and text, where they come from and are kept, and which samples make up a batch."""

from __future__ import annotations

from lib.errors import Refused


class DataError(Refused):
    """A data set that can't be had, or that does not fit what is asked of it; one line for the user."""
