from tests.faults.every_call import EveryCall


class TestClaude(EveryCall):
    agent = "claude"
