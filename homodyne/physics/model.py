"""What a correlation model is, and where models are found by name.

A model is one class in one file: its parameters, and the squared field correlation

    g(t1, t2; q, phi) = |c1|²,    c2 = offset + contrast * g,    g = 1 at t1 = t2,

written in JAX. Everything else, from the likelihood with contrast and offset integrated out to figures, follows. Where it
likes, a model also says in which coordinates its posterior is round (`coordinates`), which rates can be drawn against
time (`rates`), where parameters are possible (`supported`) and the covariance of its field (`field`).

`find_model` looks a model up by its name, or imports one as ``module:Class``.
"""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.errors import InputError

Params = Mapping[str, Any]
"""Values of parameters by name: numbers or arrays that broadcast."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a model.

    Attributes
    ----------
    name : str
        Identifier in Python, YAML and tables.
    prior : (kind, arguments)
        Default prior, as in `homodyne.physics.priors.make_prior`.
    unit : str
        "" for none.
    symbol : str
        In figures, as matplotlib's mathtext without dollar signs; the name by default.
    description : str
        One line.
    support : (low, high)
        Values that are possible at all.
    period : float or None
        A value and the value plus `period` are the same, as for directions; None where that is not so.
    aliases : tuple of str
        Further names that are accepted when settings are read.
    """

    name: str
    prior: tuple[str, Mapping[str, float]]
    unit: str = ""
    symbol: str = ""
    description: str = ""
    support: tuple[float, float] = (-np.inf, np.inf)
    period: float | None = None
    aliases: tuple[str, ...] = ()


class Rate(NamedTuple):
    """Something that follows from the parameters at every age, such as J(t): name, symbol, unit and ``value(params, t)``."""

    name: str
    symbol: str
    unit: str
    value: Callable[[Params, Any], jax.Array]


@dataclass(frozen=True)
class PowerLaw:
    """Three parameters that together are a rate ``amplitude * t**(sign * exponent) + offset``, positive over the record.

    The posterior of such parameters is a curved ridge in themselves and round in the coordinates of
    `homodyne.physics.coordinates`.

    Attributes
    ----------
    rate : str
        What the law is called, for names of coordinates: ``log_J``.
    amplitude, exponent : str
        Names of parameters; the amplitude has to have the support (0, inf).
    offset : str or None
        Name of the constant, None for none.
    sign : float
        1 or -1.
    visible : callable
        ``visible(q, gap)``: decay in 1/s that a rate of one causes, for starting points.
    """

    rate: str
    amplitude: str
    exponent: str
    offset: str | None = None
    sign: float = 1.0
    visible: Callable[[Any, Any], Any] = field(default=lambda q, gap: 1.0, compare=False)


class CorrelationModel(ABC):
    """A law for g; subclass it, give `name`, `parameters` and `g`, and decorate options as fields of a frozen dataclass."""

    name: ClassVar[str]
    parameters: ClassVar[Sequence[Parameter]]
    aliases: ClassVar[Sequence[str]] = ()
    needs_gap: ClassVar[bool] = False
    """Whether the gap between plates has to be known."""

    @abstractmethod
    def g(self, params: Params, t1: Any, t2: Any, q: Any, phi: Any, gap: Any) -> jax.Array:
        """Squared field correlation |c1|² of the frames at t1 and t2.

        Written with `jax.numpy`, differentiable, smooth, without clipping; arguments broadcast against each other.

        Parameters
        ----------
        params : mapping
            All parameters by name.
        t1, t2 : array
            Ages in s, t1 <= t2. May lie beyond the record, where the value has to be finite and smooth.
        q : array
            Modulus of the wave vector, 1/Å.
        phi : array
            Azimuth of the wave vector, degrees.
        gap : array
            Distance between the plates, Å; NaN where it is unknown.
        """

    def field(self, params: Params, t1: Any, t2: Any, q: Any, phi: Any, gap: Any) -> jax.Array:
        """Field correlation c1 with ``|c1|² = g``, real or complex: the covariance that simulated fields have.

        By default the positive root of `g`, which has to be a covariance then.
        """
        return jnp.sqrt(self.g(params, t1, t2, q, phi, gap))

    def coordinates(self) -> Sequence[PowerLaw]:
        """Power laws among the parameters. All other parameters are coordinates of their own."""
        return ()

    def rates(self) -> Sequence[Rate]:
        """Rates that are drawn against age and head the summary."""
        return ()

    def supported(self, params: Params, t_first: Any, t_last: Any) -> jax.Array:
        """Whether the parameters are possible for a record from t_first to t_last (s)."""
        return jnp.asarray(True)

    def warnings(self, params: Params, t: Any, q: Any, phi: Any, gap: Any) -> Sequence[str]:
        """Sentences on what is wrong with a fit that ended at `params` (plain numbers)."""
        return ()

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def units(self) -> dict[str, str]:
        """Units of the parameters by name."""
        return {parameter.name: parameter.unit for parameter in self.parameters}

    @property
    def options(self) -> dict[str, Any]:
        """Options of the model by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)} if is_dataclass(self) else {}


MODELS: dict[str, type[CorrelationModel]] = {}
"""Models by name; `register_model` adds to them."""


def register_model(model: type[CorrelationModel]) -> type[CorrelationModel]:
    """Make a model known under its name; use it as a decorator.

    Raises
    ------
    InputError
        Another model has that name, or the class is not a complete model.
    """
    check_model_class(model)
    if MODELS.get(model.name, model).__qualname__ != model.__qualname__:
        raise InputError(f"there is a model {model.name!r} already: choose another name for {model.__qualname__}")
    MODELS[model.name] = model
    return model


def check_model_class(model: type[CorrelationModel]) -> None:
    """Refuse a class that is no complete model."""
    if not (isinstance(model, type) and issubclass(model, CorrelationModel)):
        raise InputError(f"{model!r} is not a subclass of homodyne.physics.model.CorrelationModel")
    for name in ("name", "parameters"):
        if not getattr(model, name, None):
            raise InputError(f"the model {model.__qualname__} has no {name}: give it as an attribute of the class")
    names = [parameter.name for parameter in model.parameters]
    bad = [name for name in names if not name.isidentifier() or name in ("contrast", "offset", "sigma")]
    if bad or len(set(names)) != len(names):
        raise InputError(
            f"parameters of {model.__qualname__} are {', '.join(names)}: expected different identifiers other than "
            "contrast, offset and sigma"
        )
    if getattr(model, "__abstractmethods__", None):
        raise InputError(f"the model {model.__qualname__} lacks {', '.join(sorted(model.__abstractmethods__))}")


def find_model(name: str, options: Mapping[str, Any] | None = None, *, importing: bool = True) -> CorrelationModel:
    """Return the model of a name, with its options.

    Parameters
    ----------
    name : str
        Registered name or alias, or ``module:Class`` in a module that Python finds.
    options : mapping, optional
        Options of the model.
    importing : bool
        Whether a module may be imported; results and stores that name one do not get that right.

    Raises
    ------
    InputError
        There is no such model, or it has no such option.
    """
    chosen = find_model_class(name, importing=importing)
    given = dict(options or {})
    known = [one.name for one in fields(chosen)] if is_dataclass(chosen) else []
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(
            f"the model {name} has no option {', '.join(unknown)}; "
            + (f"its options are {', '.join(known)}" if known else "it has none")
        )
    return chosen(**given)


def reference_of(model: CorrelationModel) -> str:
    """Name by which `find_model` finds the class of a model: its name, or ``module:Class`` where it is not registered."""
    kind = type(model)
    return model.name if MODELS.get(model.name) is kind else f"{kind.__module__}:{kind.__qualname__}"


def find_model_class(name: str, *, importing: bool = True) -> type[CorrelationModel]:
    """Return the class of a model; parameters as of `find_model`.

    Without the right to import, ``module:Class`` is found when that module is imported already.
    """
    from homodyne.physics import models  # noqa: F401  # registers those of the package

    known = {alias: model for model in MODELS.values() for alias in model.aliases} | MODELS
    if name in known:
        return known[name]
    module, separator, attribute = name.partition(":")
    if not separator:
        near = get_close_matches(name, known, 1, 0.5)
        raise InputError(
            f"unknown model {name!r}: {f'did you mean {near[0]}? ' if near else ''}expected one of "
            f"{', '.join(MODELS)}, or 'module:Class' of your own"
        )
    found = _imported(name, module, attribute) if importing else vars(sys.modules.get(module, object)).get(attribute)
    if found is None:
        raise InputError(
            f"the model {name!r} is not imported, and what names it has no right to import it: import {module} first, "
            f"or name the model yourself"
        )
    check_model_class(found)
    return found  # type: ignore[no-any-return]


def _imported(name: str, module: str, attribute: str) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot import the model {name!r}: {error}; expected 'module:Class' in a module that Python finds "
            "(PYTHONPATH, or the working directory with python -m homodyne)"
        ) from error
