"""Binaries and small runs, made once for all integration tests."""

import pytest

from tests.integration import runs


@pytest.fixture(scope="session")
def binaries():
  started = runs.Binaries()
  yield started
  started.close()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, binaries):
  return runs.Workspace(tmp_path_factory.mktemp("workspace"), binaries)
