"""A time after which no further test begins, so that a slow machine ends with a result.

CSSL_TEST_UNTIL is that time in seconds since 1970. Tests that begin later are skipped, the summary
counts them, and failures before it count as ever.
"""

import time

import pytest

REASON = "out of time: CSSL_TEST_UNTIL has passed"


class Deadline:
    def __init__(self, until):
        self.until = until

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if time.time() > self.until:
            pytest.skip(REASON)

    def pytest_terminal_summary(self, terminalreporter):
        skipped = terminalreporter.stats.get("skipped", [])
        late = sum(REASON in str(report.longrepr) for report in skipped)
        if late:
            text = f"OUT OF TIME: {late} tests were not run; see CONTRIBUTING.md"
            terminalreporter.write_line(text, red=True)
