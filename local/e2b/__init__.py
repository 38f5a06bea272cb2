"""A local E2B: `server.create_server` for a program, `python -m local.e2b` for a process. See README.md."""
