"""What a law can be about, each with its loss, its unit and its conditions."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Quantity:
  """A score of `Point`, as a loss L that falls with N and D."""

  name: str
  label: str  # on axes, and in sentences
  unit: str  # of L
  column: str  # the score it is made of
  best: float | None = None  # of a score where more is better; None: a loss
  num_orders: int = 0  # Brier-1 to Brier-n that must be resolved
  is_per_byte: bool = False

  def score(self, point) -> float | None:
    """The value that figures show; None where the point has none."""
    value = point.scores.get(self.column)
    return None if value is None else value * (self._scale(point) or math.nan)

  def error(self, point) -> float:
    """Standard error of `score` over the evaluated text."""
    return point.errors.get(self.column, 0.0) * self._scale(point)

  def loss(self, score: float) -> float:
    return score if self.best is None else -math.log(score / self.best)

  def score_of_loss(self, loss: float) -> float:
    return loss if self.best is None else self.best * math.exp(-loss)

  def censored_reason(self, point) -> str | None:
    """Why a point does not count; None where it does.

    A logarithm diverges at 0, so a score counts only above two of its errors.
    BrierLM is a product, and counts only where each Brier-n does.
    """
    if self.column not in point.scores and not self.num_orders:
      return f"has no {self.column}"
    if self.is_per_byte and not point.bytes_per_token:
      return "has no bytes_per_token"
    names = [f"brier_{n}" for n in range(1, self.num_orders + 1)]
    if not names and self.best is not None:
      names = [self.column]
    for name in names:
      score, error = point.scores.get(name), point.errors.get(name)
      if score is None or error is None:
        return f"has no {name} with its error"
      if score <= 2 * error or score <= 0:
        return f"{name} {score:.2g} is not above two errors ({error:.2g})"
    if self.best is not None and point.scores.get(self.column, 0) <= 0:
      return f"has no {self.column} above 0"
    return None

  def _scale(self, point) -> float:
    """Nats a token to bits a byte, where that is asked for; 0: not known."""
    if not self.is_per_byte:
      return 1.0
    size = point.bytes_per_token
    return 1 / (math.log(2) * size) if size else 0.0


_ALL = (
  Quantity(
    "brier_lm", "BrierLM", "−ln(BrierLM/100)", "brier_lm", 100.0, num_orders=4
  ),
  Quantity("brier_1", "Brier-1", "−ln(Brier-1)", "brier_1", 1.0, num_orders=1),
  Quantity(
    "cross_entropy",
    "cross-entropy (nats a token)",
    "nats a token",
    "cross_entropy",
  ),
  Quantity(
    "bits_per_byte",
    "bits a byte",
    "bits a byte",
    "cross_entropy",
    is_per_byte=True,
  ),
  Quantity(
    "cloze_accuracy",
    "cloze accuracy above chance",
    "−ln of the cloze accuracy above chance",
    "cloze_accuracy",
    1.0,
  ),
  Quantity(
    "cloze_nats",
    "nats of the true continuation",
    "nats of the true continuation; of a CALM by the kernel estimate, which is"
    " no perplexity",
    "cloze_nats",
  ),
)
QUANTITIES = {quantity.name: quantity for quantity in _ALL}


def quantity_of(name: str) -> Quantity:
  """The quantity of that name.

  Raises:
    ValueError: if there is none.
  """
  if name not in QUANTITIES:
    raise ValueError(
      f"the quantity {name!r} is not known; choose one of"
      f" {', '.join(QUANTITIES)}."
    )
  return QUANTITIES[name]
