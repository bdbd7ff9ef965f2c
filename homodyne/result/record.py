"""The posterior a fit returns: draws, verdict, diagnostics and everything needed to repeat it.

``MCMCResult`` is a record; ``result.summary()`` is the table to print; ``result.save(path)`` and
``load_result(path)`` write and read a NetCDF file that ArviZ and xarray open too. The same record serves
two-time maps and posteriors of anything else; then ``q``, ``t`` and ``phi`` are None.
"""

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from homodyne.arguments import Json
from homodyne.arrays import AnyArray, Array
from homodyne.certificate.verdict import Verdict
from homodyne.errors import InputError
from homodyne.result.summary import PER_MAP, SummaryTable, run_facts, summarise

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from homodyne.certificate.certify import Certificate
    from homodyne.physics.model import CorrelationModel
    from homodyne.result.words import Words

_VECTORS = ("t", "q", "phi", "sigma")
_NOT_PLAIN = ("samples", "sample_stats", *_VECTORS, "gap", "certificate", "model_class")
_NAME_IT = (
    "name the model, load_result(path, model=MyModel), or register its class with homodyne.physics.model.register_model"
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MCMCResult:
    """Posterior draws with the verdict on them.

    Parameters
    ----------
    samples : mapping of str to array
        Draws by name: physical parameters ``(chain, draw)``, ``contrast``, ``offset`` (and ``sigma`` when
        it was sampled) ``(chain, draw, map)``, parameters of anything else ``(chain, draw, ...)``. Only
        parameters that were free.
    parameter_names : tuple of str
        Physical parameters in their order, free or fixed.
    analysis_mode : str
        Name of the correlation model, ``"static"``, ``"laminar_flow"`` ..., or ``"module:Class"``.
    method, uncertainty : str
        ``"laplace"``, ``"nuts"``, ``"cmc"``; ``"independent"`` or ``"calibrated"``.
    verdict : str
        ``"CERTIFIED"``, ``"CORRECTED"``, ``"REFUSED"``, or ``"UNCERTIFIED"`` where no certificate was asked
        for.
    num_points : int
        Measured pairs i < j that entered the fit, all maps together.
    seed : int
        Seed of all randomness.
    sample_stats : mapping of str to array
        ``(chain, draw)``: lp, diverging, energy, tree_depth, acceptance_rate, as far as they exist.
    units, fixed : mapping
        Unit (text) by name; value of each parameter that was held fixed, in that unit.
    certificate : Certificate or None
        Evidence for the verdict.
    diagnostics : mapping
        ``rhat``, ``ess_bulk``, ``ess_tail`` by name (a list for a parameter with one value per map),
        ``divergences``, ``ebfmi``, ``pilot``, ``warnings`` (list of str), ``cmc`` (validation of shards),
        ``reduction`` (of the maps to nodes, and how exact it is), ``checks`` (tests of the fit), ``left_out`` (list of
        str: pairs of frames that are no data, and why).
    t, q, phi, sigma : array or None
        Frame times (n,) in s; wave vector in 1/Å and angle in degrees of each map (n_maps,); noise standard
        deviation of c2 in each map (n_maps,) used in the fit.
    gap : float or None
        Distance of the plates (Å).
    model_options : mapping
        Options of the model, such as ``{"shear_convention": "he2024"}``.
    model_class : subclass of CorrelationModel, optional
        Class of the model where it is not registered; not saved.
    bad_frames : tuple of int
        Frames (0-based, within the selected range) that were left out.
    config, timings, versions : mapping
        Resolved configuration; seconds by stage; versions of the libraries.
    num_shards, combination_method, per_shard_diagnostics
        Only from Consensus Monte Carlo: number of shards, the method actually used, one mapping per shard.
    noise_inflation : mapping or None
        By name: factor between the standard deviation with the correlated noise and that with independent
        noise; of contrast and offset a list with one for every map.

    Raises
    ------
    InputError
        A field has the wrong type or shape, a draw is not finite, or verdict and certificate contradict
        each other.
    """

    samples: Mapping[str, AnyArray]
    parameter_names: tuple[str, ...]
    analysis_mode: str
    method: str
    uncertainty: str
    verdict: Verdict
    num_points: int
    seed: int
    sample_stats: Mapping[str, AnyArray] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    certificate: "Certificate | None" = None
    diagnostics: Mapping[str, Json] = field(default_factory=dict)
    t: Array | None = None
    q: Array | None = None
    phi: Array | None = None
    sigma: Array | None = None
    gap: float | None = None
    model_options: Mapping[str, Json] = field(default_factory=dict)
    bad_frames: tuple[int, ...] = ()
    config: Mapping[str, Json] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    num_shards: int | None = None
    combination_method: str | None = None
    per_shard_diagnostics: list[dict[str, Json]] | None = None
    noise_inflation: Mapping[str, Json] | None = None
    model_class: "type[CorrelationModel] | None" = None

    def __post_init__(self) -> None:
        for name in ("samples", "sample_stats"):
            _put(self, name, {key: np.asarray(draws) for key, draws in getattr(self, name).items()})
        for name in _VECTORS:
            if getattr(self, name) is not None:
                _put(self, name, np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64)))
        if self.gap is not None:
            _put(self, "gap", float(self.gap))
        for name, kind in plain_fields().items():
            value = _plain(getattr(self, name), name)
            try:
                _put(self, name, kind.validate_python(value))
            except ValidationError as error:
                raise InputError(f"{name} of a result is {value!r}: {error.errors()[0]['msg']}") from None
        _check_consistency(self)
        _check_numbers(self)
        _check_verdict(self)

    def __repr__(self) -> str:
        return f"<MCMCResult {self.verdict}: {run_facts(self).replace(chr(10), '; ')}>"

    def _repr_html_(self) -> str:
        """Verdict, sentences, a small picture and the table, for notebooks."""
        from homodyne.viz.notebook import result_picture

        lines = "".join(f"<p>{html.escape(line)}</p>" for line in self.words.lines())
        table = html.escape("\n".join(self.summary().body()))
        return f"<p><strong>{self.verdict}</strong></p>{lines}{result_picture(self)}<pre>{table}</pre>"

    @cached_property
    def words(self) -> "Words":
        """What was found, how far it can be trusted and what to do next, each in a sentence of plain words."""
        from homodyne.result.words import in_words

        return in_words(self)

    @property
    def free_names(self) -> tuple[str, ...]:
        """Names of the physical parameters that were sampled, in order."""
        return tuple(name for name in self.parameter_names if name in self.samples)

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(next(iter(self.samples.values())).shape[0])

    @property
    def num_draws(self) -> int:
        """Number of draws per chain."""
        return int(next(iter(self.samples.values())).shape[1])

    @property
    def mean(self) -> dict[str, Json]:
        """Posterior mean by name: float, or one number per map."""
        return {name: _flat(draws).mean(axis=0)[()] for name, draws in self.samples.items()}

    @property
    def sd(self) -> dict[str, Json]:
        """Posterior standard deviation (n - 1) by name: float, or one number per map."""
        return {name: _flat(draws).std(axis=0, ddof=1)[()] for name, draws in self.samples.items()}

    @property
    def samples_params(self) -> AnyArray:
        """Draws of the free physical parameters, chains one after the other: (chain * draw, d)."""
        return np.concatenate(
            [_flat(self.samples[name]).reshape(self.num_chains * self.num_draws, -1) for name in self.free_names],
            axis=1,
        )

    @property
    def converged(self) -> bool:
        """True when the posterior may be used: the verdict is CERTIFIED or CORRECTED."""
        return self.verdict.usable

    @property
    def cmc_diagnostics(self) -> dict[str, Json] | None:
        """Validation of the shards and of their combination, or None for other methods."""
        return self.diagnostics.get("cmc") if self.is_cmc_result() else None

    @property
    def model(self) -> "CorrelationModel | None":
        """Correlation model with its options, or None; then `missing_model` says why."""
        return None if self.missing_model else self.require_model()

    @property
    def missing_model(self) -> str:
        """Why curves of the model cannot be shown and how to name it; empty where they can."""
        try:
            self.require_model()
        except InputError as error:
            return str(error)
        return ""

    def require_model(self) -> "CorrelationModel":
        """Correlation model with its options; nothing is imported to find it.

        Raises
        ------
        InputError
            The result is not one of maps; its model is not known in this process, or is another one today.
        """
        from homodyne.physics.model import find_model

        if self.t is None:
            raise InputError("this result does not come from two-time maps: it has no model of their correlation")
        try:
            if self.model_class is None:
                model = find_model(self.analysis_mode, self.model_options, importing=False)
            else:
                model = self.model_class(**self.model_options)
        except (InputError, TypeError) as error:
            raise InputError(f"no curves of the model: {error}; {_NAME_IT}") from None
        if model.parameter_names != self.parameter_names:
            raise InputError(
                f"no curves of the model: {type(model).__qualname__} has the parameters "
                f"{', '.join(model.parameter_names)}, the result {', '.join(self.parameter_names)}; {_NAME_IT}"
            )
        return model

    def is_cmc_result(self) -> bool:
        """True when the draws come from Consensus Monte Carlo."""
        return self.num_shards is not None

    def summary(self) -> SummaryTable:
        """Table of all parameters, fixed ones included, under the verdict and its reason."""
        return summarise(self)

    def to_dataframe(self) -> "pd.DataFrame":
        """Draws with one row for each and the index (chain, draw); of what each map has, a column for each map."""
        import pandas as pd

        index = pd.MultiIndex.from_product([range(self.num_chains), range(self.num_draws)], names=["chain", "draw"])
        columns: dict[str, AnyArray] = {}
        for name, draws in self.samples.items():
            flat = draws.reshape(self.num_chains * self.num_draws, -1)
            labels = [name] if draws.ndim == 2 else [f"{name}[{k}]" for k in range(flat.shape[1])]
            columns |= dict(zip(labels, flat.T, strict=True))
        return pd.DataFrame(columns, index=index)

    def to_datatree(self) -> "xr.DataTree":
        """Groups ``posterior``, ``sample_stats``, ``constant_data`` over chain, draw, map and frame."""
        from homodyne.result.netcdf import result_to_datatree

        return result_to_datatree(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the NetCDF file ``path``, whole or not at all; only another result is replaced.

        Raises
        ------
        InputError
            The place cannot be written, or holds a file of another kind.
        ExecutionError
            The disk is full or failed; an old file is intact.
        """
        from homodyne.files import RESULT, write_atomically
        from homodyne.result.netcdf import result_to_bytes

        return write_atomically(path, result_to_bytes(self), RESULT)


def load_result(path: str | os.PathLike[str], *, model: "type[CorrelationModel] | None" = None) -> MCMCResult:
    """Read a file written by ``MCMCResult.save``; nothing in the file is trusted, imported or executed.

    Parameters
    ----------
    path : path
    model : subclass of CorrelationModel, optional
        Model behind the result, where it is neither of this package nor registered. Without it such a result has its
        draws and tables, but no curves.

    Raises
    ------
    InputError
        There is no such file, or it is truncated, damaged, changed, or not a homodyne result; or it does not come from
        `model`.
    """
    from homodyne.result.netcdf import read_result

    result = read_result(path)
    if model is None:
        return result
    from homodyne.physics.model import check_model_class

    check_model_class(model)
    result = replace(result, model_class=model)
    result.require_model()
    return result


@cache
def plain_fields() -> dict[str, TypeAdapter[Any]]:
    """Fields of a result that are plain data (what JSON can hold), and what checks them."""
    return {name: TypeAdapter(kind) for name, kind in MCMCResult.__annotations__.items() if name not in _NOT_PLAIN}


def _put(result: MCMCResult, name: str, value: object) -> None:
    object.__setattr__(result, name, value)


def _plain(value: object, where: str) -> Json:
    """The same data as lists, dictionaries with text keys, text and numbers: what a file gives back."""
    if value is None or isinstance(value, str | bool | int | float):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist(), where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, where) for item in value]
    raise InputError(f"{where} of a result holds a {type(value).__name__}; expected numbers, text, lists or mappings")


def _check_consistency(result: MCMCResult) -> None:
    if not result.samples:
        raise InputError("a result needs draws of at least one parameter; samples is empty")
    shape = next(iter(result.samples.values())).shape[:2]
    for name, draws in (*result.samples.items(), *result.sample_stats.items()):
        if draws.ndim < 2 or draws.shape[:2] != shape or draws.size == 0 or draws.dtype.kind not in "fiub":
            raise InputError(f"{name} has shape {draws.shape}, dtype {draws.dtype}; expected numbers, {shape} first")
    for name, draws in result.samples.items():
        if bad := np.count_nonzero(~np.isfinite(draws)):
            raise InputError(f"{bad} draws of {name} are not finite; a sampler must not return them")
        if result.phi is not None and name in PER_MAP and draws.shape[2:] != result.phi.shape:
            raise InputError(f"draws of {name} have shape {draws.shape}; expected {(*shape, result.phi.size)}")
    sizes = {name: np.shape(getattr(result, name)) for name in ("q", "phi")}
    if (result.q is None) != (result.phi is None) or sizes["q"] != sizes["phi"]:
        raise InputError(f"q has shape {sizes['q']}, phi {sizes['phi']}; expected one of each for every map")
    for name in result.parameter_names:
        if (name in result.samples) == (name in result.fixed):
            raise InputError(f"parameter {name} must have either draws or a fixed value")


def _check_verdict(result: MCMCResult) -> None:
    if result.certificate is not None and result.certificate.verdict != result.verdict:
        raise InputError(f"verdict is {result.verdict} but the certificate says {result.certificate.verdict}")
    if result.converged and (
        result.certificate is None or not np.isfinite([result.certificate.k_hat, result.certificate.ess]).all()
    ):
        raise InputError(f"verdict is {result.verdict} without a certificate whose k-hat and ESS are numbers")


def _check_numbers(result: MCMCResult) -> None:
    for name, values in ({name: getattr(result, name) for name in (*_VECTORS, "gap")} | dict(result.fixed)).items():
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{name} of a result holds values that are not finite; expected numbers")
    lp = result.sample_stats.get("lp", np.zeros(1))
    if np.isnan(lp).any() or (result.converged and not np.isfinite(lp).all()):
        raise InputError(f"lp of a result holds {np.count_nonzero(~np.isfinite(lp))} values that are no log densities")


def _flat(draws: AnyArray) -> AnyArray:
    """Chains one after the other: (chain * draw, ...)."""
    return draws.reshape(-1, *draws.shape[2:])
