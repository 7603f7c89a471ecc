"""Bytes on disk: checkpoints, and every file that is opened or written."""
