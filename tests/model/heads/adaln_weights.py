"""Parameters of a diffusion or flow head under the names of the NumPy model."""

import numpy as np

_PARTS = {
  "input_proj": "latent_embed",
  "cond_embed": "condition_embed",
  "time_embed.mlp.0": "time_inner",
  "time_embed.mlp.2": "time_outer",
  "final_layer.adaLN_modulation.1": "modulation",
  "final_layer.linear": "outer",
}
_BLOCK_PARTS = {
  "mlp.0": "inner",
  "mlp.2": "outer",
  "adaLN_modulation.1": "modulation",
}


def adaln_weights(params):
  """{"generative_head.net.…": float64 array} of one head's parameters."""
  network = params["network"]
  found = {name: network[part] for name, part in _PARTS.items()}
  for i in range(sum(name.startswith("blocks_") for name in network)):
    block = network[f"blocks_{i}"]
    for name, part in _BLOCK_PARTS.items():
      found[f"res_blocks.{i}.{name}"] = block[part]
    found[f"res_blocks.{i}.in_ln"] = {
      "kernel": block["norm"]["norm"]["scale"],
      "bias": block["norm"]["norm"]["bias"],
    }
  weights = {}
  for name, part in found.items():
    name = f"generative_head.net.{name}"
    weights[f"{name}.weight"] = np.asarray(part["kernel"], np.float64).T
    weights[f"{name}.bias"] = np.asarray(part["bias"], np.float64)
  return weights
