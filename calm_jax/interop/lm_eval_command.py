"""lm-eval's own command, with the model `calm_jax` known to it.

  python -m calm_jax.interop.lm_eval_command run --model calm_jax \\
      --model_args run=RUN,num_samples=64 --include_path=tasks --tasks=mine

lm-eval 0.4.13 knows only its own models until another is imported, and its
command imports none. Versions with plugins find this one by its entry point
`lm_eval.models`; `lm_eval run --model calm_jax …` is then the same command.
"""

from lm_eval.__main__ import cli_evaluate

from calm_jax.interop import lm_eval_model  # noqa: F401, registers the model

if __name__ == "__main__":
  cli_evaluate()
