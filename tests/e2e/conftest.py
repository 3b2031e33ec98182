"""Fixtures: a fresh project and a running `kizashi up` for each test that asks for one."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness  # noqa: E402


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
