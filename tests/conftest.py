"""What a whole run of the tests says at its end."""


def pytest_terminal_summary(terminalreporter):
    """How often the attack suite tried, added up over all processes; a test says it by `record_property`."""
    ended = [report for report in terminalreporter.stats.get("", []) if report.when == "teardown"]
    attempts = [value for report in ended for name, value in report.user_properties if name == "attempts"]
    if attempts:
        tried = f"{sum(attempts)} attempts in {len(attempts)} tests"
        terminalreporter.write_line(f"attack suite: {tried} read and changed nothing of another user's")
