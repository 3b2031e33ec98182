"""What a project needs on Google Cloud: said where it is missing, made once."""

import os
import secrets

import pytest

import cloud
import harness


@pytest.fixture
def shop(tmp_path):
    """A project in a Google Cloud project that nobody else has."""
    cloud.need_emulators()
    directory = tmp_path / "shop"
    harness.write_project(directory)
    os.environ["GOOGLE_CLOUD_PROJECT"] = "t" + secrets.token_hex(8)
    yield directory
    del os.environ["GOOGLE_CLOUD_PROJECT"]


def test_what_is_missing_is_one_line_with_the_command_that_makes_it(shop):
    for name, resource in (("collect", "kizashi-testshop-events"), ("process", "kizashi-testshop-events")):
        refused = harness.run("up", shop, "--role", name, "--backend", "gcp", check=1).stderr.decode()
        assert resource in refused and "kizashi gcp init" in refused
    project = os.environ.pop("GOOGLE_CLOUD_PROJECT")
    refused = harness.run("up", shop, "--role", "collect", "--backend", "gcp", check=1).stderr.decode()
    os.environ["GOOGLE_CLOUD_PROJECT"] = project
    assert "GOOGLE_CLOUD_PROJECT" in refused


def test_gcp_init_makes_each_thing_once(shop):
    assert "kizashi gcp init" in harness.run("gcp", "init", shop, "--check", check=1).stderr.decode()
    made = harness.run("gcp", "init", shop).stdout.decode()
    for thing in ("topic kizashi-testshop-events", "subscription kizashi-testshop-events-process",
                  "subscription kizashi-testshop-requests-infer-counter", "Spanner database testshop",
                  "Bigtable table kizashi_testshop"):
        assert thing in made
    assert harness.run("gcp", "init", shop).stdout.decode() == "everything is there\n"
    assert harness.run("gcp", "migrate", shop).stdout.decode() == "everything is there\n"
    assert harness.run("gcp", "init", shop, "--check").stdout.decode() == "everything is there\n"

