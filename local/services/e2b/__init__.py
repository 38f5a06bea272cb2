"""A local E2B: `server.create_server` for a program, `python -m local.services.e2b` for a process. See README.md."""
