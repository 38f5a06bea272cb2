"""The suites of the sandbox against a real envd: `make conformance ENVD=<binary>` (docs/how-to/conformance.md)."""
