"""Tests calm_jax/scaling/points.py."""

import math

import pytest

from calm_jax.scaling import points as points_lib
from calm_jax.scaling.points import Point
from calm_jax.scaling.quantities import QUANTITIES, quantity_of


def _point(**changes):
  values = {
    "name": "a",
    "family": "calm",
    "parameters": 1e6,
    "tokens": 2e7,
    "chunk_size": 4,
    "seed": 3,
    "training_flops": 1.5e14,
    "autoencoder_flops": 2.5e13,
    "scores": {f"brier_{n}": 0.5**n for n in range(1, 5)} | {"brier_lm": 17.0},
    "errors": {f"brier_{n}": 0.01 for n in range(1, 5)} | {"brier_lm": 0.4},
  }
  return Point(**values | changes)


def test_losses_of_scores():
  point = _point(scores={"brier_lm": 8.0, "brier_1": 0.2, "cross_entropy": 3.5})
  assert point.loss("brier_lm")[0] == pytest.approx(math.log(100 / 8))
  assert point.loss("brier_1")[0] == pytest.approx(math.log(5))
  assert point.loss("cross_entropy") == (3.5, 0.0)
  for quantity, score in point.scores.items():
    loss = point.loss(quantity)[0]
    assert quantity_of(quantity).score_of_loss(loss) == pytest.approx(score)


def test_an_unknown_quantity_is_taken_for_no_other():
  point = _point(scores={"brier_2": 0.5})
  for ask in (
    lambda: point.loss("brier_2"),
    lambda: points_lib.split_censored([point], "brier_2"),
  ):
    with pytest.raises(ValueError, match="'brier_2' is not known; choose one"):
      ask()


def test_error_of_a_loss_is_the_relative_error_of_the_score():
  loss, error = _point().loss("brier_lm")
  up = -math.log((17.0 + 0.004) / 100)
  assert error == pytest.approx(100 * (loss - up), rel=1e-3)


def test_cross_entropy_in_bytes():
  """3.5 nats a token of 4 bytes are 3.5 / (4 ln 2) bits a byte."""
  point = _point(
    scores={"cross_entropy": 3.5},
    errors={"cross_entropy": 0.02},
    bytes_per_token=4.0,
    inference_flops=8.0,
  )
  loss, error = point.loss("bits_per_byte")
  assert loss == pytest.approx(3.5 / (4 * math.log(2)))
  assert error == pytest.approx(loss * 0.02 / 3.5)
  assert point.inference_flops_per_byte == 2
  x = points_lib.point_features([point])
  assert math.exp(x[1, 0]) == pytest.approx(4 * point.tokens)
  unknown = _point(scores={"cross_entropy": 3.5})
  reason = QUANTITIES["bits_per_byte"].censored_reason(unknown)
  assert reason == "has no bytes_per_token"


def test_the_autoencoder_is_paid_whole_or_shared():
  point = _point(autoencoder_users=5)
  assert point.whole_training_flops == 1.75e14
  assert point.shared_training_flops == 1.55e14


def test_brier_lm_counts_where_every_order_is_above_two_errors():
  weak = {f"brier_{n}": 0.01 for n in range(1, 4)} | {"brier_4": 0.04}
  low = _point(name="low", errors=weak)  # brier_4 = 0.0625
  kept, censored = points_lib.split_censored([_point(), low], "brier_lm")
  assert [point.name for point in kept] == ["a"]
  assert [(point.name, why) for point, why in censored] == [
    ("low", "brier_4 0.062 is not above two errors (0.04)")
  ]
  assert len(points_lib.split_censored([_point(), low], "brier_1")[0]) == 2


def test_a_score_without_its_error_does_not_count():
  reason = quantity_of("brier_1").censored_reason(_point(errors={}))
  assert reason == "has no brier_1 with its error"
  reason = quantity_of("cross_entropy").censored_reason(_point(scores={}))
  assert reason == "has no cross_entropy"


def test_an_unresolved_brier_lm_says_which_order_is_too_low():
  scores = {f"brier_{n}": 0.5**n for n in range(1, 4)} | {"brier_4": -0.01}
  reason = quantity_of("brier_lm").censored_reason(_point(scores=scores))
  assert reason == "brier_4 -0.01 is not above two errors (0.01)"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_round_trip(tmp_path, suffix):
  points = [_point(), _point(name="b", scores={}, errors={})]
  points_lib.write_points(points, tmp_path / "table")
  assert points_lib.read_points(tmp_path / f"table{suffix}") == points


_HEADER = "name,family,parameters,tokens,chunk_size,brier_1"


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ([], "no points"),
    ([_HEADER], "no points"),
    (["name,loss", "a,3"], "lacks family, parameters"),
    ([_HEADER, "a,calm,1e6,2e7,4,nan"], "'a' has brier_1 nan"),
    ([_HEADER, "a,calm,1e6,2e7,4,high"], "brier_1 'high'; a number"),
    ([_HEADER, "a,calm,1e6,2e7,0,0.1"], "chunk_size 0"),
    ([_HEADER, "a,rnn,1e6,2e7,4,0.1"], "family 'rnn'"),
    ([_HEADER, *["a,calm,1e6,2e7,4,0.1"] * 2], "two points are named 'a'"),
  ],
)
def test_damaged_tables_are_refused(tmp_path, lines, message):
  path = tmp_path / "table.csv"
  path.write_text("\n".join(lines))
  with pytest.raises(ValueError, match=message) as error:
    points_lib.read_points(path)
  assert "\n" not in str(error.value)


def test_a_table_of_another_kind_is_refused_and_a_mark_is_dropped(tmp_path):
  points_lib.write_points([_point(name="é")], tmp_path / "a")
  table = tmp_path / "a.csv"
  table.write_bytes("\ufeff".encode() + table.read_bytes())
  assert [point.name for point in points_lib.read_points(table)] == ["é"]
  with pytest.raises(ValueError, match=r"a.tsv is no table .* known are .csv"):
    points_lib.read_points(table.rename(tmp_path / "a.tsv"))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
  path = tmp_path / "table.parquet"
  path.write_text("nothing of the kind")
  with pytest.raises(ValueError, match="not a table of points"):
    points_lib.read_points(path)


def test_a_negative_error_is_refused():
  with pytest.raises(ValueError, match=r"a brier_1 with the error -0\.1"):
    _point(errors={"brier_1": -0.1})


def test_a_table_without_scores_is_refused(tmp_path):
  path = tmp_path / "table.csv"
  path.write_text("name,family,parameters,tokens,chunk_size\na,calm,1,1,1\n")
  with pytest.raises(ValueError, match="it lacks every score"):
    points_lib.read_points(path)
