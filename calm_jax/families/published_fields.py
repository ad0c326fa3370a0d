"""The fields of a `config.json` that no size of the model is read from.

Every field is read by some kind of model, stands here, or is refused: one that
is passed over in silence would leave a default in its place.
"""

from collections.abc import Collection, Mapping
from typing import Any

# What the models of the paper have, and what says so in other words. A file
# without the field means the first.
FIXED: dict[str, tuple[Any, ...]] = {
  "hidden_act": ("silu",),
  "attention_bias": (False,),
  "mlp_bias": (False,),
  "attention_dropout": (0.0, None),
  "add_cross_attention": (False, None),
  "is_causal": (True, None),
  "is_encoder_decoder": (False, None),
  "partial_rotary_factor": (1.0, None),
  "pruned_heads": ({}, None),
  "quantization_config": (None,),
  "sliding_window": (None,),
  "tie_encoder_decoder": (False, None),
  "use_sliding_window": (False, None),
}

# Says how numbers are kept or read, which the tensors themselves tell.
_DTYPES = ("float32", "float16", "bfloat16", None)

# No computed number and no shape depends on them: names, labels, defaults of
# generation, how a model was initialised, what it returns and how fast.
HARMLESS = frozenset(
  {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
  }
)


def check_fields(
  values: Mapping[str, Any],
  architecture: str,
  fields: Collection[str],
  fixed: Mapping[str, tuple[Any, ...]],
) -> None:
  """Refuses what would change the model and is not read.

  Args:
    values: of the file.
    architecture: of the model.
    fields: that some kind of model reads.
    fixed: what this kind demands besides `FIXED`.

  Raises:
    ValueError: if a field is unknown, or has a value that cannot be read.
  """
  for name, accepted in {**FIXED, **fixed}.items():
    found = values.get(name, accepted[0])
    if not any(is_same(found, value) for value in accepted):
      raise ValueError(
        f"config.json has {name} {show(found)}; only {accepted[0]!r} can be"
        " read."
      )
  _check_dtypes(values)
  _check_layers(values)
  _check_code(values, architecture)
  known = HARMLESS | FIXED.keys() | fixed.keys() | _CHECKED | set(fields)
  if unknown := sorted(values.keys() - known):
    name = unknown[0]
    raise ValueError(
      f"config.json has {show(name)} {show(values[name])}, a field this"
      f" package does not know ({len(unknown)} such); remove it if the model"
      " is the same without it."
    )


def is_same(first: Any, second: Any) -> bool:
  """Whether two values of JSON are one: 1 is 1.0, but not true."""
  return first == second and isinstance(first, bool) == isinstance(second, bool)


def show(value: Any) -> str:
  """A value of a file in a message, of any length."""
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"


_CHECKED = frozenset(
  {"architectures", "auto_map", "dtype", "layer_types", "torch_dtype"}
)


def _check_dtypes(values: Mapping[str, Any]) -> None:
  found = [values[name] for name in ("dtype", "torch_dtype") if name in values]
  for value in found:
    if value not in _DTYPES:
      raise ValueError(
        f"config.json has the dtype {show(value)}; only float32, float16 and"
        " bfloat16 can be read."
      )
  if len(found) == 2 and found[0] != found[1]:
    raise ValueError(
      f"config.json has dtype {found[0]!r} and torch_dtype {found[1]!r}, which"
      " contradict each other; remove the wrong one."
    )


def _check_layers(values: Mapping[str, Any]) -> None:
  kinds = values.get("layer_types")
  is_full = isinstance(kinds, list) and all(
    kind == "full_attention" for kind in kinds
  )
  if kinds is not None and not is_full:
    raise ValueError(
      f"config.json has layer_types {show(kinds)}; only 'full_attention' can"
      " be read."
    )


def _check_code(values: Mapping[str, Any], architecture: str) -> None:
  """A file may name code of its own, and with it another class."""
  classes = values.get("auto_map")
  if classes is None:
    return
  if not isinstance(classes, Mapping):
    raise ValueError(
      f"config.json has auto_map {show(classes)}; not an object."
    )
  for name, path in classes.items():
    is_model = str(name).startswith("AutoModel")
    if is_model and str(path).rpartition(".")[2] != architecture:
      raise ValueError(
        f"config.json has auto_map {show(path)}, and architectures"
        f" {architecture}; remove the wrong one."
      )
