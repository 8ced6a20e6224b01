"""Limits of batches and threads, of `bench`, too: beyond them the runtimes fail in odd ways."""

from __future__ import annotations

__all__ = ["MOST_BATCH", "MOST_THREADS", "MOST_WORKERS"]

MOST_BATCH, MOST_THREADS = 65536, 1024
MOST_WORKERS = 4096
