from tests.faults.every_call import EveryCall


class TestCodex(EveryCall):
    agent = "codex"
