"""Names of tensors in a published checkpoint."""

from calm_jax.config import ModelConfig
from calm_jax.families import family_of
from calm_jax.layers.published import Entry

# Pairs of names under which the same tensors are stored.
_ALIASES = (
  ("encoder.embed_tokens.weight", "decoder.lm_head_weight"),
  ("generative_head.", "mlp_generator."),
)
AUTOENCODER_PREFIX = "ae_model."


def entries(config: ModelConfig) -> list[Entry]:
  """Every parameter of a model, without those of its autoencoder."""
  return family_of(config).published.entries(config)


def aliases(name: str) -> list[str]:
  """All names under which a tensor may be stored, the given one first.

  Args:
    name: as `Entry.sources` gives it, perhaps after `AUTOENCODER_PREFIX`.

  Returns:
    One name or two.
  """
  prefix = AUTOENCODER_PREFIX if name.startswith(AUTOENCODER_PREFIX) else ""
  for first, second in _ALIASES:
    if not name.startswith(prefix + first):
      continue
    # Heads of diffusion and flow are stored once.
    if not name.startswith("generative_head.net."):
      return [name, prefix + second + name.removeprefix(prefix + first)]
  return [name]
