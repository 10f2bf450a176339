"""Tracking: one `Run` that logs to a journal on disk, and one process per tracker that reads it from there."""
