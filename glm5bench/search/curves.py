"""The curve of an arm over concurrency, as a Gaussian model around the step model's prediction.

Input: the prediction of an arm (Prior), and its measured points. Output: joint draws of log throughput and log interactivity at every
candidate, and of the effects of its server starts. Pure: no file, no clock.

The model of both figures has four parts. The prediction has three factors (fixed part of a decode pass, growing part, prefill) and a knee.
Above the knee nothing changes, or both figures fall with a power of the concurrency. A residual is smooth in log2 concurrency. Each server
start and each run has an effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..values.search import Prior

Floats = NDArray[np.float64]

N_DRAWS = 720
FACTOR_SD = 0.2  # of each factor's logarithm
KNEES = np.exp(np.linspace(math.log(0.09), math.log(3.3), 37))  # multiples of the predicted knee
FALL, FALL_SD, FALL_SHARE = (-0.25, -0.08), (0.15, 0.06), 0.5  # powers of concurrency above the knee if figures fall there, and its weight
KNEE_SD, KNEE_WIDE_SD, KNEE_WIDE_SHARE = 0.3, 1.2, 0.15
OFFSET_SD = 0.1  # of the logarithm of throughput alone: what the prediction leaves out between its two figures
RESIDUAL_SD, OWN_SD, LENGTH_OCTAVES = 0.04, 0.01, 2.0  # of the residual: common to both figures, of each figure, its length scale
SHAPES = [(float(k), False) for k in KNEES] + [(float(k), True) for k in KNEES[::2]]
START_SHARE = 0.5  # of the variance between runs: what the runs of one server start have in common
CORRELATION = 0.8  # of throughput and interactivity, in the effects of starts and of runs
LEVEL_SD = 2.0  # of the logarithms of both figures, where points are compared with each other and not with the prediction
WIDER, MOST_SPREAD = 1.5, 0.5  # factor by which a contradicted spread is widened, and its end


@dataclass(frozen=True)
class Seen:
    """One measured point. `start`: which start of a server it was measured on; `latency`: seconds by figure, if a limit asks for them."""

    concurrency: int
    tput_per_gpu_tok_s: float
    interactivity_tok_s_user: float
    start: str
    latency: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Draws:
    """Joint draws. `tput`, `x`: shape (D, G), logarithms at `concurrency` (G,). `starts`: for each start, shape (D, 2)."""

    concurrency: Floats
    tput: Floats
    x: Floats
    starts: dict[str, Floats]
    spread: float  # that was used: larger than the stated one if the points contradict that

    def frontier(self, log_x: Floats) -> Floats:
        """The logarithm of the highest throughput with at least these interactivities, shape (D, len(log_x)).

        NaN above the interactivity of the lowest concurrency. Below that of the highest concurrency it is the best throughput.
        """
        x, tput = np.minimum.accumulate(self.x, axis=1), np.maximum.accumulate(self.tput, axis=1)
        read = np.array([np.interp(-log_x, -one, best) for one, best in zip(x, tput, strict=True)])
        return np.where(log_x > x[:, :1], np.nan, read)


def draws(prior: Prior, seen: Sequence[Seen], spread: float, *, seed: int, n: int = N_DRAWS) -> Draws:
    """Joint draws given the points. `spread`: standard deviation of a figure from run to run on different starts, as a share.

    It is widened until the points are plausible, because a claim from points that contradict the model would be too narrow.
    """
    while spread < MOST_SPREAD:
        found, misfit = _draws(prior, seen, spread, seed, n)
        if misfit <= _most_misfit(2 * len(seen) - 2):
            return found
        spread *= WIDER
    return _draws(prior, seen, spread, seed, n)[0]


def _draws(prior: Prior, seen: Sequence[Seen], spread: float, seed: int, n: int) -> tuple[Draws, float]:
    """Draws with this spread, and the misfit of the likeliest shape: the sum of its squared standardised residuals, at any level."""
    concurrency = np.array(sorted({*prior.concurrency, *(s.concurrency for s in seen)}), dtype=np.float64)
    starts = list(dict.fromkeys(s.start for s in seen))
    at = np.searchsorted(concurrency, [s.concurrency for s in seen])
    figures = [[math.log(s.tput_per_gpu_tok_s) for s in seen], [math.log(s.interactivity_tok_s_user) for s in seen]]
    measured = np.array(figures, dtype=np.float64).ravel()
    pick = _picked(len(concurrency), at, [starts.index(s.start) for s in seen], len(starts))
    run = noise_covariance(spread, is_new_start=False)
    noise = np.asarray(np.kron(run, np.eye(len(seen))), dtype=np.float64)
    of_starts = np.kron(noise_covariance(spread, is_new_start=True) - run, np.eye(len(starts)))
    residual = np.kron(np.full((2, 2), RESIDUAL_SD**2) + OWN_SD**2 * np.eye(2), _matern(np.log2(concurrency)))
    residual[: len(concurrency), : len(concurrency)] += OFFSET_SD**2
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((n, 2 * len(concurrency) + 2 * len(starts)))
    missed = rng.standard_normal((n, 2 * len(seen))) @ _root(noise).T  # draws of the runs' effects
    order = (np.arange(n) + 0.5) / n
    parts: list[tuple[Floats, Floats]] = []
    log_weights: list[float] = []
    for factor, falls in SHAPES:
        mean, slopes = _predicted(prior, np.minimum(concurrency, factor * prior.knee))
        curve = slopes.T @ (FACTOR_SD**2 * slopes) + residual
        if falls:
            above = np.log(np.maximum(1.0, concurrency / (factor * prior.knee)))
            mean = mean + np.kron(FALL, above)
            curve = curve + np.kron(np.diag(np.square(FALL_SD)), np.outer(above, above))
        prior_mean = np.concatenate([mean, np.zeros(2 * len(starts))])
        covariance = np.block([[curve, np.zeros((len(curve), len(of_starts)))], [np.zeros((len(of_starts), len(curve))), of_starts]])
        parts.append((prior_mean, covariance))
        log_weights.append(_log_prior(factor, falls=falls) + _fit(measured, pick, prior_mean, covariance, noise)[1])
    weights = np.exp(np.array(log_weights) - max(log_weights))
    rises = np.cumsum(weights / weights.sum())
    which = np.minimum(np.searchsorted(rises, order), len(SHAPES) - 1)
    found = np.empty_like(normal)
    for k in np.unique(which):
        mean, covariance = parts[k]
        drawn = mean + normal[which == k] @ _root(covariance).T
        if len(seen):
            drawn = drawn + (measured - drawn @ pick.T - missed[which == k]) @ _gain(covariance, pick, noise).T
        found[which == k] = drawn
    found = found[rng.permutation(n)]  # arms are independent: their draws must not be sorted by knee
    g = len(concurrency)
    effects = found[:, 2 * g :].reshape(n, 2, len(starts))
    drawn_starts = {s: effects[:, :, i] for i, s in enumerate(starts)}
    anywhere = noise + LEVEL_SD**2 * np.kron(np.eye(2), np.ones((len(seen), len(seen))))  # a wrong level is no scatter
    misfit = _fit(measured, pick, *parts[int(np.argmax(weights))], anywhere)[0]
    return Draws(concurrency, found[:, :g], found[:, g : 2 * g], drawn_starts, spread), misfit


def _most_misfit(degrees: int) -> float:
    """The 99.9 % quantile of the chi-squared distribution, by Wilson and Hilferty's approximation."""
    if degrees <= 0:
        return math.inf
    part = 2 / (9 * degrees)
    return degrees * (1 - part + 3.09 * math.sqrt(part)) ** 3


def noise_covariance(spread: float, *, is_new_start: bool) -> Floats:
    """The covariance, shape (2, 2), of a run's effect on log throughput and log interactivity, with that of its start if it is new."""
    both = np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])
    return np.asarray((1.0 if is_new_start else 1 - START_SHARE) * spread**2 * both)


def _picked(n_grid: int, at: NDArray[np.int64], start: Sequence[int], n_starts: int) -> Floats:
    """The matrix that maps the state (both figures at every concurrency, both effects of every start) to the measured figures."""
    n = len(at)
    pick = np.zeros((2 * n, 2 * n_grid + 2 * n_starts))
    for i in range(n):
        for figure in range(2):
            pick[figure * n + i, figure * n_grid + at[i]] = 1.0
            pick[figure * n + i, 2 * n_grid + figure * n_starts + start[i]] = 1.0
    return pick


def _predicted(prior: Prior, concurrency: Floats) -> tuple[Floats, Floats]:
    """The prediction at these concurrencies, both figures one after the other: shape (2 G,), and its slopes, shape (3, 2 G)."""
    known, wanted = np.log(prior.concurrency), np.log(concurrency)

    def read(values: Sequence[float]) -> Floats:
        return np.asarray(np.interp(wanted, known, values))

    mean = np.concatenate([read(prior.log_tput), read(prior.log_x)])
    slopes = [np.concatenate([read(t), read(x)]) for t, x in zip(prior.d_tput, prior.d_x, strict=True)]
    return mean, np.array(slopes)


def _matern(x: Floats) -> Floats:
    """The correlation of a Matern process of order 5/2."""
    d = math.sqrt(5) * np.abs(x[:, None] - x[None, :]) / LENGTH_OCTAVES
    return np.asarray((1 + d + d**2 / 3) * np.exp(-d))


def _log_prior(factor: float, *, falls: bool) -> float:
    def density(sd: float) -> float:
        return math.exp(-0.5 * (math.log(factor) / sd) ** 2) / sd

    weight = 2 * FALL_SHARE if falls else 1 - FALL_SHARE  # every second knee has a falling shape
    return math.log(weight) + math.log((1 - KNEE_WIDE_SHARE) * density(KNEE_SD) + KNEE_WIDE_SHARE * density(KNEE_WIDE_SD))


def _fit(measured: Floats, pick: Floats, mean: Floats, covariance: Floats, noise: Floats) -> tuple[float, float]:
    """The misfit of a shape, and the logarithm of its likelihood; 0 without points."""
    if not len(measured):
        return 0.0, 0.0
    total = pick @ covariance @ pick.T + noise
    root = np.linalg.cholesky(total + 1e-12 * np.eye(len(total)))
    whitened = np.linalg.solve(root, measured - pick @ mean)
    misfit = float(whitened @ whitened)
    return misfit, float(-0.5 * misfit - np.log(np.diag(root)).sum())


def _gain(covariance: Floats, pick: Floats, noise: Floats) -> Floats:
    """What a draw of the prior must be corrected by, for each unit that its figures differ from the measured ones (Matheron's rule).

    Unlike the eigenvectors of the conditional covariance, this is unique: other processors compute the same within rounding.
    """
    cross = covariance @ pick.T
    return np.asarray(np.linalg.solve(pick @ cross + noise + 1e-12 * np.eye(len(noise)), cross.T).T)


def _root(covariance: Floats) -> Floats:
    """The Cholesky root; a small diagonal makes it exist for curves that are equal above the knee."""
    if not len(covariance):
        return covariance
    return np.asarray(np.linalg.cholesky(covariance + 1e-9 * float(np.trace(covariance)) / len(covariance) * np.eye(len(covariance))))
