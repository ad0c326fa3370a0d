"""Published weights in and out.

    python -m launch.convert --source=CALM-M --target=RUN
    python -m launch.convert --source=CALM-M --target=RUN --verify=io.npz
    python -m launch.convert --source=RUN --target=CALM-M --reverse

The first reads a Hugging Face directory of an autoencoder, a CALM or a Llama
token model and writes a run directory. --verify then recomputes recorded
outputs from what was written, and fails above 1e-5. --reverse writes a
directory that the authors' classes load.
"""

import pathlib
import sys

import tqdm
from absl import flags

from launch import entry

_SOURCE = flags.DEFINE_string(
  "source", None, "Hugging Face directory; with --reverse a run directory."
)
_TARGET = flags.DEFINE_string("target", None, "New directory to write.")
_VERIFY = flags.DEFINE_string(
  "verify", None, "Recorded inputs and outputs (.npz) to compare with."
)
_REVERSE = flags.DEFINE_bool("reverse", False, "From ours to Hugging Face.")
_STEP = flags.DEFINE_integer(
  "step", None, "With --reverse: the saved step; by default the newest."
)
_TOKENIZER = flags.DEFINE_string(
  "tokenizer", None, "Tokenizer, where the source directory has none."
)
_AUTOENCODER = flags.DEFINE_string(
  "autoencoder", None, "Autoencoder's directory, in place of the ae_path."
)
flags.mark_flags_as_required(["source", "target"])


def main(arguments: list[str]) -> None:
  del arguments
  from calm_jax.checkpoint.run_directory import load_run
  from calm_jax.interop.conversion import convert
  from calm_jax.interop.export import export
  from calm_jax.interop.recorded import read_recording
  from calm_jax.interop.verification import verify

  for flag in (_SOURCE, _TARGET):
    if not flag.value:
      raise ValueError(f"--{flag.name} is empty; give a directory.")
  source, target = _path(_SOURCE), _path(_TARGET)
  if _REVERSE.value:
    _refuse(
      "does not go with --reverse",
      verify=_VERIFY,
      tokenizer=_TOKENIZER,
      autoencoder=_AUTOENCODER,
    )
  else:
    _refuse("goes with --reverse alone", step=_STEP)
  tokenizer, autoencoder = _path(_TOKENIZER), _path(_AUTOENCODER)
  recording = read_recording(_path(_VERIFY)) if _VERIFY.value else None
  with tqdm.tqdm(
    desc="converting", unit="B", unit_scale=True, leave=False, delay=1
  ) as bar:

    def progress(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    if _REVERSE.value:
      export(source, target, step=_STEP.value, progress=progress)
    else:
      convert(
        source,
        target,
        tokenizer=tokenizer,
        autoencoder=autoencoder,
        progress=progress,
      )
  if recording is not None:
    verification = verify(load_run(target), recording)
    print(verification.table())
    verification.check()
  print(f"written: {target}", file=sys.stderr)


def _path(flag: flags.FlagHolder) -> pathlib.Path | None:
  from calm_jax import paths

  if paths.is_remote(flag.value or ""):
    raise ValueError(
      f"--{flag.name}={flag.value} is in a bucket, and published weights are"
      " read and written on disks alone; give a directory here, and copy it."
    )
  return pathlib.Path(flag.value).expanduser() if flag.value else None


def _refuse(reason: str, **others: flags.FlagHolder) -> None:
  for name, flag in others.items():
    if flag.value is not None:
      raise ValueError(f"--{name} {reason}; leave it out.")


if __name__ == "__main__":
  entry.run(main)
