"""Order of the test files: those that took longest in the last run come first.

A worker that takes a long file last keeps the others waiting.
"""

import collections
import json
import os
import pathlib

import pytest

VARIABLE = "CSSL_TEST_ORDER"  # JSON: seconds per test file, the same for every worker of a run
UNKNOWN = 10.0  # seconds of a file that has not run before


def longest_first(items, seconds):
    """Test items with the files in the order of ``seconds``, descending; stable within a file."""
    return sorted(items, key=lambda item: -seconds.get(file_of(item.nodeid), UNKNOWN))


def file_of(name):
    """File of a test name."""
    return name.split("::")[0]


class LongestFirst:
    """A pytest plugin: orders test files and records how long they take.

    Args:
        config: pytest's configuration. The marker expression names the record, since a file has
            fast and slow tests.
        folder: Folder of the records, which outlives the run.
    """

    def __init__(self, config, folder):
        name = config.getoption("markexpr").replace(" ", "_") or "all"
        self.path, self.seconds = pathlib.Path(folder) / f"seconds-{name}.json", {}
        self.is_worker = hasattr(config, "workerinput")
        self.measured = collections.Counter()
        if self.is_worker:
            self.seconds = json.loads(os.environ.get(VARIABLE, "{}"))
        else:
            self.seconds = read(self.path)
            os.environ[VARIABLE] = json.dumps(self.seconds)
            config.option.loadscopereorder = not self.seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = longest_first(items, self.seconds) if self.seconds else items

    def pytest_runtest_logreport(self, report):
        self.measured[file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self):
        if not self.is_worker and self.measured:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(self.seconds | self.measured))
            partial.replace(self.path)


def read(path):
    """Seconds per file of the last runs; {} without a readable record."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
