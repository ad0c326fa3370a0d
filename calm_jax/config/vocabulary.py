"""The token ids that a model knows."""

from calm_jax.config.fields import (
  check_not_negative,
  check_positive,
  check_range,
  config_class,
)


@config_class
class VocabularyConfig:
  """The token ids a model knows. Ids 0 … size−1 are the tokenizer's."""

  size: int  # V, what is scored
  begin_id: int  # stands before each document
  end_id: int  # stands after each document; also fills chunks
  mask_id: int | None = None  # replaces dropped input tokens; None: the id V
  # Ids below V that are never predicted: out of argmax and cross-entropy.
  unscored_ids: tuple[int, ...] = ()

  def __post_init__(self):
    check_positive(self, "size")
    if self.mask_id is None:
      self.mask_id = self.size
    check_not_negative(self, "mask_id")
    for name in ("begin_id", "end_id"):
      check_range(self, name, 0, self.size - 1)
    for i in self.unscored_ids:
      if not 0 <= i < self.size or i == self.end_id:
        raise ValueError(
          f"unscored_ids holds {i}; these are ids from 0 to {self.size - 1}"
          f" without the end id {self.end_id}."
        )

  @property
  def padded_size(self) -> int:
    """What is stored and sharded: the next multiple of 128 with the mask id."""
    return -(-max(self.size, self.mask_id + 1) // 128) * 128

  def check_same_ids(self, autoencoder: "VocabularyConfig") -> None:
    """Raises ValueError unless data of these ids suits an autoencoder's."""
    for name in ("size", "begin_id", "end_id"):
      found, wanted = getattr(self, name), getattr(autoencoder, name)
      if found != wanted:
        raise ValueError(
          f"the data's vocabulary has {name} {found} and the autoencoder's"
          f" {wanted}; prepare the data with the autoencoder's tokenizer."
        )
