"""A run of the suite leaves no file in the working tree."""

import os

import pytest

# Of Python, git, the environments and the tools that `make lint types` runs.
_SKIPPED = {".git", "__pycache__", ".mypy_cache", ".ruff_cache"}


def listing(root):
    """Paths of all files below ``root``, without those of tools."""
    found = set()
    for folder, names, files in os.walk(root):
        names[:] = [n for n in names if n not in _SKIPPED and not n.startswith(".venv")]
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in files}
    return found


class Leftovers:
    """A pytest plugin of the controlling process: compares the tree before and after all tests."""

    def __init__(self, root):
        self.root, self.before = root, listing(root)
        self.new = []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        self.new = sorted(listing(self.root) - self.before)
        if self.new:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        for path in self.new:
            terminalreporter.write_line(f"left in the working tree: {path}", red=True)
