"""Bytes on disk: checkpoints, and how every file is opened and written."""
