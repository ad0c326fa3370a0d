"""A short series of faults; `tests.integration.faults` makes long ones."""

import pytest

from tests.integration import fault_kinds
from tests.integration.faults import Series
from tests.integration.scene import Setting

pytestmark = pytest.mark.processes


def _series(binaries, material, tmp_path, setting, *kinds):
  for name in ("data", "autoencoder"):
    (tmp_path / name).symlink_to(material / name)
  return Series(
    binaries,
    tmp_path,
    seed=0,
    settings=[setting],
    kinds={kind.__name__: kind for kind in kinds},
  )


def test_one_process_and_its_evaluator_lose_nothing(
  binaries, material, tmp_path
):
  kinds = (
    fault_kinds.terminate,
    fault_kinds.kill_in_a_save,
    fault_kinds.damage,
    fault_kinds.full_disk,
    fault_kinds.kill_evaluator,
  )
  setting = Setting("calm", is_followed=True)
  series = _series(binaries, material, tmp_path, setting, *kinds)
  series.run(len(kinds))
  assert {fault["fault"] for fault in series.faults} == {
    kind.__name__ for kind in kinds
  }


def test_two_processes_lose_nothing(binaries, material, tmp_path):
  kinds = fault_kinds.kill, fault_kinds.freeze
  setting = Setting("autoencoder", num_processes=2)
  _series(binaries, material, tmp_path, setting, *kinds).run(len(kinds))
