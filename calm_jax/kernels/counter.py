"""Counter-based normal numbers: draw (m, z) of a position from its key alone.

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011), the hash behind
`jax.random`. It needs only additions, rotations and exclusive ors of 32-bit
words, which every target has in vector units; 20 rounds is the authors'
recommendation, 7 above the fewest that pass their tests. The counter has 64
bits: the pair of targets m // 2 and the latent dimension z. Its top bit is set,
which `jax.random` never does below 2⁶³ draws a key, so the same position's key
may serve both.

One hash gives 64 bits, and the transform of Box and Muller (1958) makes of
them two normals, for the targets 2·(m//2) and 2·(m//2) + 1. Logarithm, sine and
cosine are polynomials written out here (minimax fits, relative error below
4e-8), because each backend has its own and some have none: so every platform
draws the same numbers up to the rounding of float32. The largest is
√(−2 ln 2⁻³²) = 6.66.
"""

import functools
import math

import jax
import jax.numpy as jnp

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # keeps an all-zero key from giving an all-zero schedule
_NUM_ROUNDS = 20
_TOP_BIT = 1 << 31

# log1p(t) = t − t²/2 + t³·P(t) on [√½ − 1, √2 − 1], highest power first.
_LOG = (
  8.7004393937e-02,
  -1.4267490040e-01,
  1.4914768097e-01,
  -1.6577584346e-01,
  1.9963063756e-01,
  -2.5001337045e-01,
  3.3333910738e-01,
)
# sin(t) = t + t³·P(t²) and cos(t) = 1 − t²/2 + t⁴·P(t²) on [−π/4, π/4].
_SINE = (-1.9517298703e-04, 8.3321781441e-03, -1.6666654944e-01)
_COSINE = (2.4438451336e-05, -1.3887367514e-03, 4.1666646866e-02)


def key_words(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The two 32-bit words of each position's key.

  Args:
    keys: [...], typed keys of the generator threefry2x32.

  Returns:
    Two arrays [...] uint32.

  Raises:
    ValueError: if the keys are of another generator.
  """
  words = jax.random.key_data(keys)
  if words.ndim != keys.ndim + 1 or words.shape[-1] != 2:
    raise ValueError(
      f"target keys hold {words.shape[keys.ndim :]} words each; they must be"
      " keys of threefry2x32, two words each, as `randomness` makes them."
    )
  return words[..., 0], words[..., 1]


@functools.partial(
  jax.jit,
  static_argnames=("num_targets", "latent_size", "use_antithetic_targets"),
)
def target_normals(
  keys: jax.Array,
  num_targets: int,
  latent_size: int,
  *,
  use_antithetic_targets: bool = False,
) -> jax.Array:
  """Materialises the standard normals that the kernels draw one by one.

  Args:
    keys: [...], typed keys of the positions.
    num_targets: M.
    latent_size: Z.
    use_antithetic_targets: targets 2i and 2i+1 are negatives of each other.

  Returns:
    [..., M, Z] float32.
  """
  words = [word[..., None, None] for word in key_words(keys)]
  num_pairs = -(-num_targets // 2)
  shape = (*keys.shape, num_pairs, latent_size)
  pair = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 2)
  dimension = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
  first, second = normal_pair(*words, pair, dimension)
  if use_antithetic_targets:
    second = -first
  both = jnp.stack([first, second], axis=-2)
  both = both.reshape(*keys.shape, 2 * num_pairs, latent_size)
  return both[..., :num_targets, :]


def normal_pair(
  key0: jax.Array, key1: jax.Array, pair: jax.Array, dimension: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Two standard normals for each counter (Box–Muller).

  Args:
    key0: uint32, first words of the keys; all arguments broadcast together.
    key1: uint32, second words.
    pair: uint32, below 2³¹: m // 2.
    dimension: uint32: z.

  Returns:
    The draws of target 2·pair and of target 2·pair + 1, float32.
  """
  radius_bits, angle_bits = threefry(
    key0, key1, pair | _word(_TOP_BIT), dimension
  )
  radius = _radius(radius_bits)
  cosine, sine = _cosine_and_sine(angle_bits)
  return radius * cosine, radius * sine


def threefry(
  key0: jax.Array,
  key1: jax.Array,
  counter0: jax.Array,
  counter1: jax.Array,
  num_rounds: int = _NUM_ROUNDS,
) -> tuple[jax.Array, jax.Array]:
  """The block function Threefry-2x32: 64 random bits from key and counter.

  Args:
    key0: uint32; all arguments broadcast together.
    key1: uint32.
    counter0: uint32.
    counter1: uint32.
    num_rounds: of mixing.

  Returns:
    Two words, uint32.
  """
  schedule = (key0, key1, key0 ^ key1 ^ _word(_PARITY))
  x0, x1 = counter0 + key0, counter1 + key1
  for i in range(num_rounds):
    turn = _ROTATIONS[i // 4 % 2][i % 4]
    x0 = x0 + x1
    x1 = (x1 << _word(turn)) | (x1 >> _word(32 - turn))
    x1 = x1 ^ x0
    if i % 4 == 3:
      turn = i // 4 + 1
      x0 = x0 + schedule[turn % 3]
      x1 = x1 + (schedule[(turn + 1) % 3] + _word(turn))
  return x0, x1


def _radius(bits: jax.Array) -> jax.Array:
  """√(−2 ln u) with u = (⌊bits/2⌋ + ½)/2³¹."""
  # By way of int32, because TPU vector units convert no unsigned words.
  uniform = (bits >> _word(1)).astype(jnp.int32).astype(jnp.float32) + 0.5
  pattern = jax.lax.bitcast_convert_type(uniform, jnp.int32)
  half_root = jnp.int32(0x3F3504F3)  # the bits of √½
  exponent = jax.lax.shift_right_arithmetic(pattern - half_root, jnp.int32(23))
  mantissa = pattern - jax.lax.shift_left(exponent, jnp.int32(23))
  t = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1.0
  log = t + t * t * (t * _polynomial(_LOG, t) - 0.5)
  log = log + (exponent - 31).astype(jnp.float32) * math.log(2)
  # Not exactly 0: some backends take √s as s·rsqrt(s).
  return jnp.sqrt(jnp.maximum(-2.0 * log, 1e-30))


def _cosine_and_sine(bits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """cos and sin of the angle 2π·bits/2³²."""
  # An eighth of a turn on, the two top bits name the nearest quarter turn and
  # the other thirty, seen as signed, the angle from there.
  shifted = bits + _word(1 << 29)
  rest = (shifted << _word(2)) ^ _word(_TOP_BIT)
  rest = jax.lax.bitcast_convert_type(rest, jnp.int32)
  t = rest.astype(jnp.float32) * (math.pi / 2 / 2**32)
  square = t * t
  sine = t + t * square * _polynomial(_SINE, square)
  cosine = 1.0 + square * (square * _polynomial(_COSINE, square) - 0.5)
  is_swapped = ((shifted >> _word(30)) & _word(1)) == _word(1)
  cosine, sine = (
    jnp.where(is_swapped, sine, cosine),
    jnp.where(is_swapped, cosine, sine),
  )
  cosine = _flip_sign(cosine, shifted + _word(1 << 30))
  return cosine, _flip_sign(sine, shifted)


def _flip_sign(x: jax.Array, bits: jax.Array) -> jax.Array:
  """−x where the top bit is set."""
  pattern = jax.lax.bitcast_convert_type(x, jnp.uint32)
  pattern = pattern ^ (bits & _word(_TOP_BIT))
  return jax.lax.bitcast_convert_type(pattern, jnp.float32)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
  result = coefficients[0] * x + coefficients[1]
  for coefficient in coefficients[2:]:
    result = result * x + coefficient
  return result


def _word(value: int) -> jax.Array:
  return jnp.uint32(value)
