"""Binaries and small runs, made once for all integration tests."""

import pytest

from tests.integration import runs, scene


@pytest.fixture(scope="session")
def binaries():
  started = runs.Binaries()
  yield started
  started.close()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, binaries):
  return runs.Workspace(tmp_path_factory.mktemp("workspace"), binaries)


@pytest.fixture(scope="session")
def material(tmp_path_factory, binaries):
  """Data and an autoencoder, the least that a disturbed run needs."""
  directory = tmp_path_factory.mktemp("material")
  scene.make_material(directory, binaries)
  return directory
