"""The wide study: fits through the public door of measurements of which everything is drawn at random, widely.

A case is drawn from its kind and a seed, simulated, and fitted as users do it: `homodyne.fit(data, mode)` with default
priors and no start. Nothing is left out. Every `REFERENCE`-th case is fitted once more, by a long No-U-turn run.
"""

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import homodyne
from homodyne.certificate.verdict import Verdict
from homodyne.config.io import load_config
from homodyne.config.physics import scaling_of, space_of
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import HomodyneError
from homodyne.physics.model import CorrelationModel, find_model
from homodyne.physics.power_laws import middle_age
from homodyne.result.curves import rate_draws
from homodyne.result.record import MCMCResult

Array = np.ndarray[Any, np.dtype[Any]]

KINDS = {
    "Brownian": "static",
    "ageing": "static",
    "offset": "static",
    "laminar flow": "laminar_flow",
    "no flow": "laminar_flow",
    "stretched": "stretched",
    "heterodyne": "heterodyne",
}
"""Mode of the fit by kind; a sample of the kind "no flow" is at rest."""

FRAMES = (60, 1000)
REFERENCE = 5  # one case in so many has one
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
INFORMED = 0.1  # share of the prior in the central 90 % interval, below which the data say something of a quantity

_LARGEST = 3e11  # maps x modes x pixels x frames^2, which takes a minute to simulate
_FEWEST = 20.0  # counts in a frame, so that none is without
_PRIOR_DRAWS = 1000
_LONG = {"optimization": {"mcmc": {"num_warmup": 300, "num_samples": 1500, "num_chains": 4}}}
_SEED = 1000  # added to that of a fit for its reference


@dataclass(frozen=True, eq=False)
class Case:
    """Truth and geometry of a measurement.

    Attributes
    ----------
    kind : str
    model : str
        The one behind the data.
    params : mapping
    num_frames : int
    dt, age_origin : float
        s
    q, phi : array
        1/Å, degrees; there is a map for every pair of them.
    gap : float or None
        Å
    contrast, offset : array, (n_maps,)
        Of maps whose normalisation is off by a factor: the offset.
    pixels : int
    mean_counts : float
    dead : array of int
        Frames that are lost.
    told : bool
        Whether the fit is told pixels and counts.
    """

    kind: str
    model: str
    params: Mapping[str, float]
    num_frames: int
    dt: float
    age_origin: float
    q: Array
    phi: Array
    gap: float | None
    contrast: Array
    offset: Array
    pixels: int
    mean_counts: float
    dead: Array
    told: bool

    @property
    def t(self) -> Array:
        """Ages of the frames in s."""
        return self.age_origin + self.dt * np.arange(1, self.num_frames + 1)

    def measure(self, seed: int) -> TwoTimeData:
        """Simulate detector frames, correlate them, lose the dead ones."""
        made = homodyne.simulate(
            self.params, q=self.q, gap=self.gap, num_frames=self.num_frames, dt=self.dt, phi=self.phi,
            contrast=self.contrast / self.offset, pixels=self.pixels, mean_counts=self.mean_counts, seed=seed,
            model=self.model, age_origin=self.age_origin,
        )  # fmt: skip
        c2 = np.array(made.c2)
        if made.diagonal is not None:
            c2[:, range(self.num_frames), range(self.num_frames)] = made.diagonal
        c2 *= self.offset[:, None, None].astype(np.float32)
        c2[:, self.dead] = c2[:, :, self.dead] = np.nan
        counts = {"pixels": made.pixels, "mean_counts": made.mean_counts} if self.told else {}
        return homodyne.from_cube(c2, made.t, made.phi, made.q, made.gap, **counts)


def draw(kind: str, seed: int, frames: tuple[int, int] = FRAMES) -> Case:
    """Draw a case; sizes are drawn again where the simulation would take long or frames would have no counts."""
    rng = np.random.default_rng([list(KINDS).index(kind), seed, 11])
    while True:
        num_frames = int(_log_uniform(rng, *frames))
        waves, angles = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])), int(rng.integers(1, 13))
        pixels, counts = int(_log_uniform(rng, 500, 50_000)), _log_uniform(rng, 0.02, 10.0)
        contrast = min(0.9, _log_uniform(rng, 0.05, 1.0))
        work = waves * angles / contrast * pixels * num_frames**2
        if work <= _LARGEST and pixels * counts >= _FEWEST:
            break
    dt = _log_uniform(rng, 1e-3, 1.0)
    origin = 0.0 if rng.random() < 0.5 else dt * _log_uniform(rng, 1.0, num_frames)
    q = np.sort([_log_uniform(rng, 0.002, 0.02) for _ in range(waves)])
    phi = rng.uniform(-180, 180) + 180.0 / angles * (np.arange(angles) + rng.uniform(-0.3, 0.3, angles))
    phi = (phi + 180.0) % 360.0 - 180.0
    flowing = KINDS[kind] == "laminar_flow"
    gap = _log_uniform(rng, 3e5, 3e7) if flowing else None
    maps = waves * angles
    dead = rng.random(num_frames) < (rng.uniform(0.0, 0.05) if rng.random() < 0.3 else 0.0)
    truth = _Truth(rng, float(np.exp(np.log(q).mean())), gap, origin + dt, dt, num_frames)
    offset = 1.0 + (0.02 * rng.standard_normal(maps) if rng.random() < 0.5 else np.zeros(maps))
    contrasts = offset * np.minimum(1.0, contrast * np.exp(0.05 * rng.standard_normal(maps)))
    model = "static" if kind == "no flow" else KINDS[kind]
    return Case(
        kind, model, truth.params(kind), num_frames, dt, origin, q, phi, gap, contrasts, offset, pixels, counts,
        np.flatnonzero(dead), bool(rng.random() < 0.5),
    )  # fmt: skip


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


class _Truth:
    """Draws parameters for a record, at a wave vector in the middle of those measured."""

    def __init__(
        self, rng: np.random.Generator, q: float, gap: float | None, first: float, dt: float, num_frames: int
    ) -> None:
        self.rng, self.q, self.gap = rng, q, gap
        self.first, self.last = first, first + (num_frames - 1) * dt
        self.middle = float(middle_age(self.first, self.last))
        self.tau = _log_uniform(rng, dt, 10.0 * num_frames * dt)
        """Time in s in which the correlation falls to 1/e in the middle of the record."""

    def params(self, kind: str) -> dict[str, float]:
        """Parameters of a kind that its model allows for this record."""
        model = find_model("static" if kind == "no flow" else KINDS[kind])
        while True:
            found = self._drawn(kind)
            if bool(model.supported(found, self.first, self.last)):
                return found

    def _drawn(self, kind: str) -> dict[str, float]:
        rng, level = self.rng, 1.0 / (self.q**2 * self.tau)
        plain = kind == "Brownian" or (kind != "ageing" and kind != "offset" and rng.random() < 0.4)
        with_offset = kind == "offset" or (kind != "ageing" and rng.random() < 0.3)
        transport = self._law(("D0", "alpha", "D_offset"), level, plain, with_offset)
        if kind == "stretched":
            k = rng.uniform(0.5, 1.9)
            mu = 0.0 if plain else rng.uniform(-1.0, 1.0)
            rate = 0.5 ** (1.0 / k) / self.tau * (0.01 / self.q) ** 2
            return {"Gamma_ref": rate * self.middle**mu, "mu": mu, "k": k}
        if kind == "heterodyne":
            return self._two_components(level, plain)
        if kind == "laminar flow":
            assert self.gap is not None
            shear = 2.0 * _log_uniform(rng, 0.3, 10.0) / (self.q * self.gap * self.tau)
            flow = self._law(("gamma_dot_0", "beta", "gamma_dot_offset"), shear, rng.random() < 0.4, rng.random() < 0.3)
            return {**transport, **flow, "phi0": rng.uniform(-90.0, 90.0)}
        return transport

    def _law(self, names: tuple[str, str, str], level: float, plain: bool, with_offset: bool) -> dict[str, float]:
        """Power law with a value in the middle of the record; constant where plain."""
        exponent = 0.0 if plain else self.rng.uniform(-1.5, 1.0)
        share = self.rng.uniform(0.2, 1.3) if with_offset and not plain else 1.0
        values = share * level / self.middle**exponent, exponent, (1.0 - share) * level
        return dict(zip(names, values, strict=True))

    def _two_components(self, level: float, plain: bool) -> dict[str, float]:
        rng, found = self.rng, {}
        for end in ("_ref", "_sample"):
            names = (f"D0{end}", f"alpha{end}", f"D_offset{end}")
            found.update(self._law(names, level * _log_uniform(rng, 0.1, 3.0), plain, False))
        speed = _log_uniform(rng, 1.0, 20.0) / (self.q * self.tau)
        found.update(self._law(("v0", "beta", "v_offset"), speed, rng.random() < 0.6, False))
        half = rng.uniform(0.1, 0.9)
        changing, rate = half * rng.uniform(0.2, 1.0), rng.uniform(-0.5, 0.5) / self.last
        found.update(f0=changing, f1=rate, f2=0.0, f3=half - changing, phi0=rng.uniform(-90.0, 90.0))
        return found


def one(kind: str, seed: int, frames: tuple[int, int] = FRAMES) -> dict[str, Any]:
    """Everything about the fit of a case, and about its reference if it has one."""
    case = draw(kind, seed, frames)
    record: dict[str, Any] = {"seed": seed, "frames": case.num_frames, "maps": len(case.contrast)}
    data = case.measure(seed)
    record["fit"] = _fitted(case, data, seed, {})
    if seed % REFERENCE == 0 and "error" not in record["fit"]:
        record["reference"] = _fitted(case, data, seed + _SEED, {"method": "nuts", "config": _LONG})
    return record


def _fitted(case: Case, data: TwoTimeData, seed: int, how: Mapping[str, Any]) -> dict[str, Any]:
    """What came out of a fit, or the error that did."""
    began = time.perf_counter()
    try:
        result = homodyne.fit(data, mode=KINDS[case.kind], seed=seed, **how)
        told = {
            "verdict": result.verdict,
            "method": result.method,
            "weighted": bool(result.certificate and result.certificate.weighted),
            "reason": result.certificate.reason if result.certificate else "",
            "methods": list(result.diagnostics.get("methods", ())),
            "warnings": list(result.diagnostics.get("warnings", ())),
            "alarms": list((result.diagnostics.get("checks") or {}).get("alarms", ())),
            "values": _values(case, result),
        }
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is what is looked for
        kind = "refusal" if isinstance(error, HomodyneError) else "fault"
        told = {"error": f"{kind}: {type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {**told, "seconds": round(time.perf_counter() - began, 1)}


def usable_reference(record: Mapping[str, Any]) -> bool:
    """Whether a record has a reference that passed all its own tests."""
    found = record.get("reference", {})
    return found.get("verdict") == Verdict.CERTIFIED and not found["weighted"]


def _values(case: Case, result: MCMCResult) -> dict[str, dict[str, Any]]:
    """Mean, sd, quantiles, truth and share of the prior in the 90 % interval, by name of what was drawn.

    Contrast and offset are those of the first map. Truth is None where the sample has no such thing.
    """
    model = result.require_model()
    assert result.t is not None
    t = float(middle_age(result.t[0], result.t[-1]))
    draws = {name: np.ravel(result.samples[name]) for name in result.free_names}
    draws |= {name: np.ravel(result.samples[name][:, :, 0]) for name in ("contrast", "offset")}
    positions = np.arange(result.num_chains * result.num_draws)
    known = rate_draws(result, np.array([t]), positions)
    rates = {rate.name: (value[:, 0], slope[:, 0]) for rate, value, slope in known}
    for law in model.coordinates():
        draws[law.rate], slope = rates[law.rate]
        if law.offset is not None:  # it is the exponent otherwise
            draws[f"slope of {law.rate}"] = slope
    truth = _with_rates(find_model(case.model), case.params, t)
    truth |= {"contrast": case.contrast[0], "offset": case.offset[0]}
    prior, periods = _prior(KINDS[case.kind], result.t, t), {one.name: one.period for one in model.parameters}
    found: dict[str, dict[str, Any]] = {}
    for name, x in draws.items():
        if not np.isfinite(x).all():
            continue
        quantiles = np.quantile(x, QUANTILES)
        true = truth.get(name)
        if true is not None and periods.get(name):
            true = quantiles[2] + (true - quantiles[2] + periods[name] / 2) % periods[name] - periods[name] / 2
        inside = np.mean((prior[name] >= quantiles[0]) & (prior[name] <= quantiles[-1]))
        found[name] = {
            "mean": float(x.mean()), "sd": float(x.std(ddof=1)), "quantiles": quantiles.tolist(),
            "truth": None if true is None else float(true), "prior": float(inside),
        }  # fmt: skip
    return found


def _prior(mode: str, ages: Array, t: float) -> dict[str, Array]:
    """Draws of everything from the default prior."""
    config = load_config({"analysis_mode": mode})
    space, scaling, rng = space_of(config, ages), scaling_of(config), np.random.default_rng(0)
    params = {name: space.priors[name].quantile(rng.random(_PRIOR_DRAWS)) for name in space.free_names}
    found = _with_rates(space.model, {**space.with_offsets(params), **space.fixed}, t)
    for name in ("contrast", "offset"):
        column = ("offset", "contrast").index(name)
        which = rng.choice(len(scaling.log_weight), _PRIOR_DRAWS, p=np.exp(scaling.log_weight))
        mean, sd = scaling.mean[which, column], scaling.precision[which, column] ** -0.5
        found[name] = mean + sd * rng.standard_normal(_PRIOR_DRAWS)
    return found


def _with_rates(model: CorrelationModel, params: Mapping[str, Any], t: float) -> dict[str, Any]:
    """Parameters with the rates of the model at age t and their logarithmic slopes."""
    found, step = dict(params), 1e-4
    for rate in model.rates():
        low, at, high = (np.asarray(rate.value(params, t * np.exp(k * step))) for k in (-1, 0, 1))
        found |= {rate.name: at, f"slope of {rate.name}": (high - low) / (2 * step * at)}
    return found
