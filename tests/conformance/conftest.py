"""`make test` has no real envd: what tries the rig itself is collected by `make conformance` only."""

from tests.integration.e2b_servers import REAL_ENVD

collect_ignore = [] if REAL_ENVD else ["test_machines.py"]
