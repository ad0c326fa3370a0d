#!/usr/bin/env bash
# jax 0.10.2, CPU: parameters that pass through a scan as a carry, unchanged, are
# stored once for every step as soon as the body is under jax.checkpoint.
#
# A scan whose body gives its carry back as it came is recognised by autodiff:
# the carry is kept once. Under jax.checkpoint it no longer is: the forward scan
# gives out [steps, *carry] as residuals, so rematerialisation, meant to save
# memory, makes it grow with the number of steps. Closing over the parameters
# instead of carrying them keeps one copy.
#
# Guess before running: the two programs have the same residuals.
# Seen: the jaxpr of the gradient holds f32[16,32,32] for the carried version
# only; compiled temporaries are 60 times those of the one that closes over.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/environment"
"$directory/environment/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$directory/environment/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

STEPS, SIZE = 16, 32
weights, xs = jnp.ones((SIZE, SIZE)), jnp.ones((STEPS, 4, SIZE))


def carried(body):
  return lambda xs, w: jax.lax.scan(body, w, xs)[1].sum()


def body(w, x):
  return w, jnp.tanh(x @ w)


def closed_over(xs, w):
  one = jax.checkpoint(lambda carry, x: (carry, jnp.tanh(x @ w)))
  return jax.lax.scan(one, None, xs)[1].sum()


found = {}
for name, function in {
  "carried": carried(body),
  "carried, checkpoint": carried(jax.checkpoint(body)),
  "closed over, checkpoint": closed_over,
}.items():
  gradient = jax.grad(function)
  has_copies = f"f32[{STEPS},{SIZE},{SIZE}]" in str(
    jax.make_jaxpr(gradient)(xs, weights)
  )
  compiled = jax.jit(gradient).lower(xs, weights).compile()
  size = compiled.memory_analysis().temp_size_in_bytes
  found[name] = has_copies
  print(f"{name:25} copy a step: {has_copies!s:5}  temporaries {size} bytes")
assert found == {
  "carried": False,
  "carried, checkpoint": True,
  "closed over, checkpoint": False,
}, "the behaviour has changed"
PYTHON
