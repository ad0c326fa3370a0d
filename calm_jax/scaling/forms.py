"""Forms of the law L(N, D, K), written as data: sums of power laws.

    L = E + Σ C·K^p / X^(a·K^−u)

Every term has a coefficient C, a variable X and an exponent a; K enters one of
them, or neither. E has no K: all K factorise one distribution of text, whose
own score is the same. The forms of a CALM, with N trained parameters, D the
training text and K tokens a chunk:

  coefficients  L = E + A·K^p/N^a + B·K^q/D^b
    A chunk of K tokens asks more of the network and shows it fewer positions,
    as if there were N/K^(p/a) parameters and D/K^(q/b) of text.
  exponents     L = E + A/N^(a·K^−u) + B/D^(b·K^−v)
    A larger K makes both of them pay less: its curves are flatter.
  backbone      L = E + A/(N(1−P))^d + C·K^g/(N·P)^d + B/D^b
    K asks more of the backbone alone, after DLCM (arXiv:2512.24617).

DLCM's law has its compression R in the term of the concept backbone, with P its
share of the parameters N:

    L = E₀ + A_tok/(N(1−P) + t₁)^δ₁ + A_con·R^γ/(N·P + t₂)^δ₂ + A_dat/(D + t₃)^α

For a CALM, R = K; N·P are the backbone's parameters; and N(1−P), what works on
tokens rather than on chunks, are all others, the head's, the tables' and the
frozen autoencoder's. Deviation: t₁ = t₂ = t₃ = 0 and δ₁ = δ₂ = d. Offsets show
only where a ladder's sizes span the size of the offset itself, and the two
parts of a model grow together, so that no ladder of one shape tells δ₁ from δ₂.

Without K it is the token law of Hoffmann et al. (arXiv:2203.15556, eq. 10).

Deviation: the CALM paper names such a law as open (§8); that these forms could
be it is ours.
"""

import dataclasses
import functools
import itertools

import numpy as np

# Rows of x, logarithms of what a run's loss may depend on.
VARIABLES = ("N", "D", "K", "N_token", "N_chunk")
_STARTS = (0.15, 0.4, 0.9)  # of every exponent
_BOUNDS = {  # by kind of parameter; coefficients at the points' middle
  "level": (0.0, 400.0),  # 0: the points do not tell E from 0
  "coefficient": (-9.0, 6.0),
  "exponent": (0.01, 3.0),
  "power": (-3.0, 3.0),
  "bend": (-1.0, 2.0),
}


@dataclasses.dataclass(frozen=True)
class Term:
  """C·K^p / X^(a·K^−u), by the names of its parts."""

  coefficient: str  # C
  variable: str  # X
  exponent: str  # a; several terms may have one together
  power: str = ""  # p; empty: 0
  bend: str = ""  # u; empty: 0


@dataclasses.dataclass(frozen=True)
class Form:
  """A law without its numbers."""

  name: str
  formula: str
  words: str  # what its K does
  terms: tuple[Term, ...]
  k_starts: tuple[float, ...] = ()  # of powers and bends, where a fit starts

  @functools.cached_property
  def kinds(self) -> dict[str, str]:
    """Name to kind of parameter: E, coefficients, exponents, those of K."""
    kinds = {"E": "level"}
    kinds |= {f"ln{term.coefficient}": "coefficient" for term in self.terms}
    for kind in ("exponent", "power", "bend"):
      found = [getattr(term, kind) for term in self.terms]
      kinds |= {name: kind for name in found if name}
    return kinds

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self.kinds)

  @property
  def uses_chunk_size(self) -> bool:
    return any(term.power or term.bend for term in self.terms)

  @property
  def needs_backbone(self) -> bool:
    return any(term.variable.startswith("N_") for term in self.terms)

  @functools.cached_property
  def bounds(self) -> np.ndarray:
    """Lowest and highest value of each parameter, [2, P]."""
    return np.array([_BOUNDS[kind] for kind in self.kinds.values()]).T

  def starts(self) -> list[np.ndarray]:
    """Equal terms at the points' middle, over a grid of exponents."""
    share = 1 + len(self.terms)
    fixed = [1 / share, *[-np.log(share)] * len(self.terms)]
    grid = [
      _STARTS if kind == "exponent" else self.k_starts
      for kind in self.kinds.values()
      if kind not in ("level", "coefficient")
    ]
    return [np.array([*fixed, *point]) for point in itertools.product(*grid)]

  def centre(self, x: np.ndarray) -> np.ndarray:
    """The middle of each term's ln X, [T]; x is [V, n]."""
    return self._rows(x).mean(axis=1)

  def evaluate(
    self, parameters: np.ndarray, x: np.ndarray, centre: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """ln L and its slopes.

    Args:
      parameters: [R, P], with coefficients at the centre.
      x: [V, n], logarithms of the `VARIABLES`.
      centre: [T]; zeros where coefficients are those of the law itself.

    Returns:
      ln L, [R, n], and its derivatives by the parameters, [R, P, n].
    """
    index = {name: i for i, name in enumerate(self.names)}
    of = {name: parameters[:, i, None] for name, i in index.items()}
    log_k = x[VARIABLES.index("K")]
    logs, bends = [], []
    for term, row, middle in zip(
      self.terms, self._rows(x), centre, strict=True
    ):
      bent = np.exp(-of[term.bend] * log_k) * row if term.bend else row
      log = of[f"ln{term.coefficient}"] - of[term.exponent] * (bent - middle)
      logs.append(log + of[term.power] * log_k if term.power else log)
      bends.append(bent)
    terms = np.exp(logs)
    total = of["E"] + terms.sum(axis=0)
    slopes = np.zeros((len(parameters), len(index), x.shape[1]))
    slopes[:, 0] = 1 / total
    for term, value, bent, middle in zip(
      self.terms, terms, bends, centre, strict=True
    ):
      share = value / total
      slopes[:, index[f"ln{term.coefficient}"]] += share
      slopes[:, index[term.exponent]] -= (bent - middle) * share
      if term.power:
        slopes[:, index[term.power]] += log_k * share
      if term.bend:
        slopes[:, index[term.bend]] += of[term.exponent] * log_k * bent * share
    return np.log(total), slopes

  def uncentred(
    self, parameters: np.ndarray, centre: np.ndarray, level: np.ndarray
  ) -> np.ndarray:
    """Parameters [..., P] at the centre as they stand in the law.

    `level` was taken out of ln L.
    """
    names, out = self.names, parameters.copy()
    out[..., :1] *= np.exp(level)
    for i, (term, middle) in enumerate(
      zip(self.terms, centre, strict=True), start=1
    ):
      exponent = parameters[..., names.index(term.exponent)]
      out[..., i] += level[..., 0] + exponent * middle
    return out

  def log_law(self, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
    """ln L of parameters [..., P] as they stand in the law: [..., n]."""
    flat = parameters.reshape(-1, parameters.shape[-1])
    log_loss, _ = self.evaluate(flat, x, np.zeros(len(self.terms)))
    return log_loss.reshape(*parameters.shape[:-1], -1)

  def _rows(self, x: np.ndarray) -> np.ndarray:
    return x[[VARIABLES.index(term.variable) for term in self.terms]]


def features(
  parameters, data, chunk_size, backbone=None, autoencoder=0.0
) -> np.ndarray:
  """x, [5, n], of arrays or numbers; see `VARIABLES`.

  Args:
    parameters: N, trained ones.
    data: D.
    chunk_size: K.
    backbone: of the parameters, those that work on chunks; None: not known, and
      no form that needs them can be used.
    autoencoder: parameters of the frozen one.
  """
  known = np.nan if backbone is None else backbone
  columns = [parameters, data, chunk_size, known, autoencoder]
  columns = [np.atleast_1d(np.asarray(it, float)) for it in columns]
  n, d, k, chunk, frozen = np.broadcast_arrays(*columns)
  return np.log(np.stack([n, d, k, n - chunk + frozen, chunk]))


def places_of(x: np.ndarray) -> np.ndarray:
  """The place of each run, [n] integers: runs of equal x [V, n] share one.

  What is not known of the parts of N is nan, and nan is not equal to itself.
  """
  known = np.nan_to_num(x)
  return np.unique(known, axis=1, return_inverse=True)[1].reshape(-1)


TOKEN_FORM = Form(
  "tokens",
  "L = E + A/N^a + B/D^b",
  "",
  (Term("A", "N", "a"), Term("B", "D", "b")),
)
_CHUNK_FORMS = (
  Form(
    "coefficients",
    "L = E + A·K^p/N^a + B·K^q/D^b",
    "A larger K acts as if the model had N/K^(p/a) parameters and D/K^(q/b) of"
    " text: p above 0 says that it asks for a larger model, q above 0 that it"
    " asks for more text.",
    (Term("A", "N", "a", power="p"), Term("B", "D", "b", power="q")),
    k_starts=(0.0, 0.5),
  ),
  Form(
    "exponents",
    "L = E + A/N^(a·K^−u) + B/D^(b·K^−v)",
    "A larger K gains less from every doubling: of N where u is above 0, of D"
    " where v is.",
    (Term("A", "N", "a", bend="u"), Term("B", "D", "b", bend="v")),
    k_starts=(0.0, 0.1),
  ),
  Form(
    "backbone",
    "L = E + A/(N(1−P))^d + C·K^g/(N·P)^d + B/D^b",
    "K asks more of the backbone, P of the parameters, and of nothing else:"
    " DLCM's law (arXiv:2512.24617) with its offsets at 0 and one exponent d.",
    (
      Term("A", "N_token", "d"),
      Term("C", "N_chunk", "d", power="g"),
      Term("B", "D", "b"),
    ),
    k_starts=(0.3, 1.0),  # at 0 the first two are one
  ),
)
CHUNK_FORMS = {form.name: form for form in _CHUNK_FORMS}
