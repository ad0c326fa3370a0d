"""Which ids of a vocabulary may be predicted."""

import numpy as np

from calm_jax.config import VocabularyConfig


def scored_ids(vocabulary: VocabularyConfig) -> np.ndarray:
  """[padded_size] bool: False for padded, mask and never predicted ids."""
  scored = np.arange(vocabulary.padded_size) < vocabulary.size
  scored[list(vocabulary.unscored_ids)] = False
  return scored
