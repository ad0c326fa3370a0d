"""The arrays of an `io.npz`, checked for shape when they are looked at."""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun

# The letters of the package; P = L − 1 predictions, Q = B·P of them in a row,
# R = P·K predicted tokens. Lower-case letters are free.
SHAPES = {
  "input_ids": "B T",
  "ae_mean": "B L Z",
  "ae_log_std": "B L Z",
  "ae_logits": "B T V",
  "ae_kl_clamped": "",
  "ae_decode_latents": "n Z",
  "ae_decode_tokens": "n K",
  "ae_train_token_keep": "B T",
  "ae_train_eps": "B L Z",
  "ae_train_latent_keep": "B L Z",
  "ae_train_ce": "",
  "ae_train_kl": "",
  "ae_train_loss": "",
  "energy_hidden": "B P D",
  "energy_noise": "n B P U",
  "energy_samples": "n B P Z",
  "energy_eps": "m B P Z",
  "energy_loss": "",
  "energy_loss_per_position": "B P",
  "energy_loss_grad_samples": "n B P Z",
  "energy_loss_alpha_1_5": "",
  "energy_loss_alpha_1_5_grad_samples": "n B P Z",
  "energy_ties_loss": "",
  "energy_ties_grad_samples": "n B P Z",
  "energy_decoded_tokens": "s B R",
  "brier_pred_1": "B R",
  "brier_pred_2": "B R",
  "brier_within_chunk": "4",
  "diffusion_hidden": "B P D",
  "diffusion_net_x": "Q Z",
  "diffusion_net_t": "Q",
  "diffusion_net_out": "Q 2Z",
  "diffusion_target": "Q Z",
  "diffusion_noise": "Q Z",
  "diffusion_loss_mse": "Q",
  "diffusion_loss_vb": "Q",
  "diffusion_loss_loss": "Q",
  "diffusion_sample_timesteps": "s",
  "diffusion_p_mean_0": "Q Z",
  "diffusion_p_log_variance_0": "Q Z",
  "diffusion_p_mean_37": "Q Z",
  "diffusion_p_log_variance_37": "Q Z",
  "flow_hidden": "B P D",
  "flow_net_x": "Q Z",
  "flow_net_t": "Q",
  "flow_net_out": "Q Z",
  "flow_target": "Q Z",
  "flow_loss": "Q",
  "flow_sample_from_x": "Q Z",
  "ar_logits": "B T V",
  "ar_loss": "",
}
_IDS = ("input_ids", "brier_pred_1", "brier_pred_2")


def read_recording(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads recorded inputs and outputs, for any run.

  Args:
    path: of an `io.npz`; names and shapes as in `SHAPES`.

  Returns:
    The arrays by name.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if it is no such file, has no input tokens or an array without
      numbers.
  """
  try:
    with path.open("rb") as opened:
      file = np.load(opened)
      if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError("it is one array without a name")
      arrays = {name: file[name] for name in file.files}
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
      f"{path} is no readable .npz file ({str(error)[:200]}); record it again."
    ) from None
  if "input_ids" not in arrays or arrays["input_ids"].ndim != 2:
    raise ValueError(f"the recording {path} has no input_ids of shape [B, T].")
  for name in SHAPES.keys() & arrays.keys():
    if 0 in arrays[name].shape:
      raise ValueError(
        f"the recording {path} has {name} of shape {list(arrays[name].shape)},"
        " which holds nothing to compare; record it again."
      )
  return arrays


class Recorded:
  """Inputs and outputs that fit one run.

  Attributes:
    run: the run.
    sizes: of the upper-case letters of `SHAPES`.
  """

  def __init__(self, run: LoadedRun, arrays: Mapping[str, np.ndarray]):
    """Reads the sizes off the run and the input tokens.

    Args:
      run: of any kind.
      arrays: of `read_recording`.

    Raises:
      ValueError: if the input tokens are not for this run.
    """
    self.run = run
    self._arrays = arrays
    model = run.config.model
    rows, length = arrays["input_ids"].shape
    num_chunks, rest = divmod(length, model.chunk_size)
    if rest or num_chunks < 2:
      raise ValueError(
        f"the recording's rows have {length} tokens; two chunks or more, of"
        f" {model.chunk_size} each, were expected."
      )
    self.sizes = {
      "B": rows,
      "T": length,
      "K": model.chunk_size,
      "L": num_chunks,
      "P": num_chunks - 1,
      "Q": rows * (num_chunks - 1),
      "R": length - model.chunk_size,
      "V": model.vocabulary.size,
      "D": model.hidden_size,
    }
    if (latent_size := getattr(model, "latent_size", None)) is not None:
      self.sizes |= {"Z": latent_size, "2Z": 2 * latent_size}
    if (head := getattr(model, "head", None)) is not None:
      self.sizes["U"] = getattr(head, "noise_size", 0)

  def __contains__(self, name: str) -> bool:
    return name in self._arrays

  def __getitem__(self, name: str) -> np.ndarray:
    """The array of a name; raises ValueError if its shape cannot be right."""
    array = self._arrays[name]
    expected = [
      int(letter) if letter.isdecimal() else self.sizes.get(letter, letter)
      for letter in SHAPES[name].split()
    ]
    if array.ndim != len(expected) or any(
      isinstance(size, int) and size != found
      for size, found in zip(expected, array.shape, strict=True)
    ):
      raise ValueError(
        f"the recorded {name} has shape {list(array.shape)}, and {expected}"
        " was expected for this run."
      )
    if name in _IDS and not (
      np.issubdtype(array.dtype, np.integer)
      and array.min() >= 0
      and array.max() < self.sizes["V"]
    ):
      raise ValueError(
        f"the recorded {name} holds other numbers than ids from 0 to"
        f" {self.sizes['V'] - 1}."
      )
    return array

  def chunks(self) -> np.ndarray:
    """The input tokens, [B, L, K]."""
    return self["input_ids"].reshape(
      self.sizes["B"], self.sizes["L"], self.sizes["K"]
    )
