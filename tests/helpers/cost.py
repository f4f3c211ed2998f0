"""CPU time and compiled programs per test file, printed at the end of a run of the suite."""

import collections
import json
import os
import pathlib
import resource
import time

import jax
import pytest

EVENTS = {
    "/jax/core/compile/backend_compile_duration": "programs",
    "/jax/compilation_cache/cache_hits": "cached",
}
# Limits of `make test`, see CONTRIBUTING.md. Programs are counted whether compiled or cached, so
# that their number hardly depends on the machine. CPU time does, by a factor of two and more: it is
# compared with its goal in a line that fails nothing.
PROGRAMS = 6000
FILE_PROGRAMS = 700
CPU_MINUTES = 18


class Meter:
    """CPU seconds of this process and of its finished children, and programs of this process.

    ``programs`` counts what JAX compiled or took from the persistent cache, ``cached`` the latter.
    """

    def __init__(self):
        self.counts = collections.Counter()
        jax.monitoring.register_event_listener(self._count)
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event, *_, **__):
        if event in EVENTS:
            self.counts[EVENTS[event]] += 1

    def read(self):
        """The totals since the process began, as a dictionary."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "cpu": time.process_time(),
            "children": children.ru_utime + children.ru_stime,
            "programs": self.counts["programs"],
            "cached": self.counts["cached"],
        }


def seconds(cost):
    """CPU seconds of the process and its children."""
    return cost["cpu"] + cost["children"]


def by_file(tests):
    """Costs per test file from costs per test; a test's name begins with its file's."""
    files = collections.defaultdict(collections.Counter)
    for name, cost in tests.items():
        files[name.split("::")[0]].update(cost)
    return files


def excesses(whole, files):
    """What is above the limits of the fast suite, as sentences."""
    found = []
    if whole["programs"] > PROGRAMS:
        found.append(f"{whole['programs']} compiled programs in all; the limit is {PROGRAMS}")
    found += [
        f"{name}: {cost['programs']} compiled programs; the limit is {FILE_PROGRAMS}"
        for name, cost in sorted(files.items())
        if cost["programs"] > FILE_PROGRAMS
    ]
    return found


class CostReport:
    """A pytest plugin: measures in every worker, adds up and prints in the controlling process.

    A fixture counts for the test that built it first. $CSSL_TEST_COSTS names a file to which one
    line of JSON per phase of a test is added as it ends.
    """

    def __init__(self, config):
        self.config = config
        self.meter, self.last = Meter(), None
        self.tests = collections.defaultdict(collections.Counter)
        self.workers = collections.Counter()
        self.excesses = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self):
        self.last = self.meter.read()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        now = self.meter.read()
        report.cost = {name: now[name] - self.last[name] for name in now}
        self.last = now
        return report

    def pytest_runtest_logreport(self, report):
        if hasattr(self.config, "workerinput") or not hasattr(report, "cost"):
            return  # the controlling process hears of it too; a worker that crashed has no cost
        self.tests[report.nodeid].update(report.cost)
        if path := os.environ.get("CSSL_TEST_COSTS"):
            with pathlib.Path(path).open("a") as file:
                row = {"test": report.nodeid, "phase": report.when, "outcome": report.outcome}
                row |= report.cost
                file.write(json.dumps(row) + "\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        self.workers.update(getattr(node, "workeroutput", {}).get("cost", {}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["cost"] = self.meter.read()
        elif self.config.getoption("limit_cost"):
            self.excesses = excesses(self.whole(), by_file(self.tests))
            if self.excesses:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def whole(self):
        """Costs of all processes, with imports and the collection of tests."""
        own = self.meter.read()
        if self.workers:
            # Workers are children of this process too, as far as they have ended.
            own["children"] = 0.0
        return collections.Counter(own) + self.workers

    def pytest_terminal_summary(self, terminalreporter):
        write, files = terminalreporter.write_line, by_file(self.tests)
        terminalreporter.section("CPU time and compiled programs per file")
        write("   CPU s  in children  programs  cached  file")
        rows = sorted(files.items(), key=lambda item: -seconds(item[1]))
        for name, cost in [*rows, ("all, with imports and collection", self.whole())]:
            write(
                f"{seconds(cost):8.1f}  {cost['children']:11.1f}  {cost['programs']:8}"
                f"  {cost['cached']:6}  {name}"
            )
        if self.config.getoption("limit_cost"):
            write(f"{seconds(self.whole()) / 60:.1f} min of CPU time; the goal is {CPU_MINUTES}")
        for text in self.excesses:
            write(f"the fast suite has grown: {text}", red=True)
