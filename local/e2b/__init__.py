"""A local E2B: `create_server` for a program, `python -m local.e2b` for a process."""

from local.e2b.server import create_server

__all__ = ["create_server"]
