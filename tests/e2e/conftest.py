"""Fixtures: a fresh project and a running `kizashi up` for each test that asks for one."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402

# They take longest and go first, so that none of pytest's workers has one of them left at the end.
LONGEST = ("container", "deployment", "roles_health", "push_overload", "hostile", "roles_client", "hostile_commands",
           "roles_serve", "operations", "resilience")


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: looks at how busy the machine is; tools/run-tests runs nothing beside it")


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture
def project(tmp_path):
    return harness.write_project(tmp_path / "shop")


@pytest.fixture
def server(project, tmp_path):
    running = harness.Server(project, tmp_path / "data").start()
    yield running
    running.end()


@pytest.fixture
def start(tmp_path):
    """start(yaml=..., sql=..., model=...) runs a project made for the test; all are ended with it."""
    running = []

    def make(args=(), env=None, **parts):
        directory = tmp_path / f"shop{len(running)}"
        harness.write_project(directory, **parts)
        one = harness.Server(directory, tmp_path / f"data{len(running)}", args=args, env=env).start()
        running.append(one)
        return one

    yield make
    for one in running:
        one.end()
