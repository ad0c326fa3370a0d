"""The paper's authors' public code, imported from the user's own checkout.

Nothing of it is here: only the names of its classes, of their settings and of
the methods that are called.
"""

import gc
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys
import tempfile
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import Version
from calm_jax.config import ExperimentConfig

INSTALL = "pip install torch 'transformers==4.43.*'"
_TRANSFORMERS = "4.43."  # what their checkout asks for; later ones moved names
_CLASSES = {
  "configuration_autoencoder": "AutoencoderConfig",
  "modeling_autoencoder": "Autoencoder",
  "configuration_calm": "CALMConfig",
  "modeling_energy": "EnergyTransformer",
}
_PACKAGE = "authors_models"  # what their folder is imported as


class Models(NamedTuple):
  """Both of theirs, on the device."""

  autoencoder: Any
  calm: Any


def check_checkout(directory: str) -> dict[str, str]:
  """Says what is missing before anything is imported.

  Args:
    directory: a checkout.

  Returns:
    Versions of what it needs.

  Raises:
    ValueError: if it is no such checkout, or a package is missing.
  """
  folder = pathlib.Path(directory).expanduser() / "models"
  names = [f"{name}.py" for name in (*_CLASSES, "modeling_calm")]
  missing = [name for name in names if not (folder / name).is_file()]
  if missing:
    raise ValueError(
      f"--against={directory} holds no models/{missing[0]}; give the root of a"
      " checkout of the authors' code."
    )
  versions = {}
  for name in ("torch", "transformers"):
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      raise ValueError(
        f"{name} is not installed, and the authors' code needs it: {INSTALL}"
      ) from None
  if not versions["transformers"].startswith(_TRANSFORMERS):
    raise ValueError(
      f"transformers is {versions['transformers']}, and the authors' code is"
      f" for {_TRANSFORMERS}*: {INSTALL}, in an environment of its own."
    )
  return versions


def load_classes(directory: str) -> dict[str, type]:
  """Imports their classes, by name.

  Raises:
    ValueError: if that fails.
  """
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  package = types.ModuleType(_PACKAGE)
  package.__path__ = [str(pathlib.Path(directory).expanduser() / "models")]
  for name in [it for it in sys.modules if it.startswith(_PACKAGE)]:
    del sys.modules[name]  # of another checkout
  sys.modules[_PACKAGE] = package
  classes = {}
  for module, name in _CLASSES.items():
    try:
      found = importlib.import_module(f"{_PACKAGE}.{module}")
      classes[name] = getattr(found, name)
    except (ImportError, AttributeError) as error:
      raise ValueError(
        f"models/{module}.py of --against={directory} cannot be used ({error});"
        f" give an unchanged checkout, with what it needs: {INSTALL}"
      ) from error
  return classes


def check_device(backend: str) -> str:
  """What torch calls the device that JAX runs on.

  Raises:
    ValueError: if torch cannot run there.
  """
  import torch

  if backend == "cpu":
    return "cpu"
  if backend == "gpu" and torch.cuda.is_available():
    return "cuda"
  raise ValueError(
    f"JAX runs on a {backend.upper()} and torch {torch.__version__} does not;"
    " install a torch for that device, or compare on CPUs with"
    " JAX_PLATFORMS=cpu."
  )


def build_models(
  classes: dict[str, type], config: ExperimentConfig, device: str, seed: int
) -> Models:
  """Theirs at the sizes of one of our configs, with random parameters."""
  import torch

  torch.manual_seed(seed)
  ours, head = config.autoencoder, config.model.head
  shared = {
    "vocab_size": ours.vocabulary.size,
    "patch_size": ours.chunk_size,
    "latent_size": ours.latent_size,
    "pad_token_id": 0,
  }
  autoencoder = classes["Autoencoder"](
    classes["AutoencoderConfig"](
      hidden_size=ours.hidden_size,
      intermediate_size=ours.ffn_size,
      num_encoder_layers=ours.num_encoder_layers,
      num_decoder_layers=ours.num_decoder_layers,
      ae_dropout=ours.token_mask_rate,
      kl_clamp=ours.kl_floor,
      kl_weight=ours.kl_weight,
      **shared,
    )
  )
  ours = config.model
  with tempfile.TemporaryDirectory() as path:
    autoencoder.save_pretrained(path)
    calm = classes["EnergyTransformer"](
      classes["CALMConfig"](
        ae_path=path,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.ffn_size,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads or ours.num_heads,
        num_mlp_layers=head.num_mlp_layers,
        num_samples=head.num_samples,
        noise_size=head.noise_size,
        beta=head.alpha,
        **shared,
      )
    )
  # The last layer starts at 0, where all samples of a position are the same.
  torch.nn.init.normal_(calm.generative_head.final_layer.linears[-1].weight)
  calm.eos_token_id = -1  # rows that end early would be less work
  return Models(autoencoder.to(device), calm.to(device))


def num_parameters(model: Any) -> int:
  """Of a model, those that are trained."""
  return sum(it.numel() for it in model.parameters() if it.requires_grad)


def release(device: str) -> None:
  """Gives back the memory of models that nothing refers to any more."""
  import torch

  gc.collect()
  if device == "cuda":
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def training_step(model: Any, tokens: np.ndarray, device: str) -> Version:
  """Autocast to bfloat16, clipped gradients and fused AdamW, [B, T] ids."""
  import torch

  ids = torch.from_numpy(tokens.astype(np.int64)).to(device)
  params = [it for it in model.parameters() if it.requires_grad]
  optimizer = torch.optim.AdamW(
    params, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
  )
  model.train()

  def step():
    with torch.autocast(device, dtype=torch.bfloat16):
      loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    optimizer.zero_grad()

  return _version(step, device, tokens.size)


def energy_loss(
  score_fn: Callable[..., Any], arrays: list[np.ndarray], device: str
) -> Version:
  """Their score of samples [P, N, Z], and its slope."""
  import torch

  samples, mean, log_std = (
    torch.from_numpy(np.array(it)).to(device) for it in arrays
  )
  samples = samples.transpose(0, 1).contiguous().requires_grad_()

  def call():
    samples.grad = None
    (-score_fn(samples, mean, log_std)).sum().backward()

  return _version(call, device, 0)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
  """By torch.compile, which raises RuntimeError when called, if it cannot."""
  import torch

  return torch.compile(function)


def evaluation(
  model: Any, tokens: np.ndarray, num_tokens: int, device: str
) -> Version:
  """A forward pass in eval mode: the loss and Brier scores, [B, T] ids."""
  import torch

  ids = torch.from_numpy(tokens.astype(np.int64)).to(device)

  def call():
    model.eval()
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
      model(input_ids=ids, labels=ids)

  return _version(call, device, num_tokens)


def generation(
  model: Any, prompt: np.ndarray, num_new: int, temperature: float, device: str
) -> Version:
  """Their loop with a cache, 200 candidates a chunk, [B, T] ids before it."""
  import torch

  ids = torch.from_numpy(prompt.astype(np.int64)).to(device)
  length = prompt.shape[1] + num_new

  def call():
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
      out = model.generate(
        input_ids=ids, max_length=length, temperature=temperature
      )
    assert out.shape == (len(prompt), length)

  return _version(call, device, len(prompt) * num_new)


def _version(function, device, num_tokens) -> Version:
  import torch

  def call():
    function()
    if device == "cuda":
      torch.cuda.synchronize()

  def held():
    return torch.cuda.max_memory_allocated() if device == "cuda" else None

  return Version(call, num_tokens=num_tokens, held_fn=held)
