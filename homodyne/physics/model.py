"""What a correlation model is, and where models are found by name.

A model is one class in one file: its parameters, and the squared field correlation

    g(t1, t2; q, phi) = |c1|²,    c2 = offset + contrast * g,    g = 1 at t1 = t2,

written in JAX. Everything else, from the likelihood with contrast and offset integrated out to figures, follows. Where
it likes, a model also says in which coordinates its posterior is round (`coordinates`), which rates can be drawn
against time (`rates`), where parameters are possible (`supported`) and the covariance of its field (`field`).

`find_model` looks a model up by its name, among those of this package and of installed packages that name theirs as
entry points ``homodyne.models``, or imports one as ``module:Class``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from homodyne.arguments import Faults, as_mapping
from homodyne.arrays import Leaf
from homodyne.errors import InputError
from homodyne.registries import Registry, suggestion

Real: TypeAlias = ArrayLike
"""A number, or numbers that broadcast, of NumPy or JAX."""

Params: TypeAlias = Mapping[str, Leaf]
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
    fixed : float or None
        Value that the parameter has unless a prior or another value is given; None for a parameter that is fitted.
    """

    name: str
    prior: tuple[str, Mapping[str, float]]
    unit: str = ""
    symbol: str = ""
    description: str = ""
    support: tuple[float, float] = (-np.inf, np.inf)
    period: float | None = None
    aliases: tuple[str, ...] = ()
    fixed: float | None = None


class Rate(NamedTuple):
    """What follows from the parameters at every age, such as J(t): name, symbol, unit and ``value(params, t)``."""

    name: str
    symbol: str
    unit: str
    value: Callable[[Params, Real], jax.Array]


@dataclass(frozen=True)
class PowerLaw:
    """Three parameters of a rate ``amplitude * t**(sign * exponent) + offset``, positive over the record.

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


@dataclass(frozen=True)
class Growth:
    """Three parameters of a fraction ``amplitude * exp(exponent * (t - reference)) + constant`` between 0 and 1.

    Where the data tell little of the curvature, amplitude, exponent and constant make up for each other along curved
    ridges; see `homodyne.physics.coordinates`.

    Attributes
    ----------
    rate : str
        What the law is called, for names of coordinates: ``logit_fraction``.
    amplitude, exponent, constant : str
        Names of parameters.
    reference : str
        Name of the age at which the exponential is the amplitude.
    """

    rate: str
    amplitude: str
    exponent: str
    constant: str
    reference: str


class CorrelationModel(ABC):
    """A law for g: a frozen dataclass that gives `name`, `parameters` and `g`, and whose fields are its options."""

    name: ClassVar[str]
    needs_gap: ClassVar[bool] = False
    """Whether the gap between plates has to be known."""

    @property
    @abstractmethod
    def parameters(self) -> Sequence[Parameter]:
        """The parameters: an attribute of the class, or a property where they depend on options."""

    @abstractmethod
    def g(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """Squared field correlation ``|c1|²`` of the frames at t1 and t2.

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

    def field(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """Field correlation c1 with ``|c1|² = g``, real or complex: the covariance that simulated fields have.

        By default the positive root of `g`, which has to be a covariance then.
        """
        return jnp.sqrt(self.g(params, t1, t2, q, phi, gap))

    def coordinates(self) -> Sequence[PowerLaw]:
        """Power laws among the parameters. Parameters of no law are coordinates of their own."""
        return ()

    def growths(self) -> Sequence[Growth]:
        """Fractions that change exponentially, among the parameters."""
        return ()

    def alternatives(self, params: Params, t_middle: float) -> Sequence[Params]:
        """Other parameters that give nearly the same g as `params` (plain numbers), from which modes are looked for.

        `t_middle` is the age in the middle of the record. Symmetries of the model belong here, unless a prior or
        `supported` excludes all but one of the parameters that are alike.
        """
        return ()

    def rates(self) -> Sequence[Rate]:
        """Rates that are drawn against age and head the summary."""
        return ()

    def supported(self, params: Params, t_first: Real, t_last: Real) -> jax.Array:
        """Whether the parameters are possible for a record from t_first to t_last (s)."""
        return jnp.asarray(True)

    def warnings(self, params: Params, t: Real, q: Real, phi: Real, gap: Real) -> Sequence[str]:
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
        return {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]  # see the class


Kind = TypeVar("Kind", bound=type)
_OTHER_NAMES = ("contrast", "offset", "sigma")  # of what is fitted beside the parameters of a model
_NO_OPTIONS = ("name", "parameters", "needs_gap")  # attributes that a type would turn into fields


def register_model(model: Kind) -> Kind:
    """Make a model known under its name; use it as a decorator.

    Raises
    ------
    InputError
        Another model has that name, or the class is not a complete model.
    """
    own = check_model_class(model)
    if own.name not in MODELS:
        MODELS.register(own.name, own)
    elif MODELS[own.name].__qualname__ != own.__qualname__:
        raise InputError(f"there is a model {own.name!r} already: choose another name for {own.__qualname__}")
    else:
        MODELS[own.name] = own  # of a module that is imported again
    return model


def check_model_class(model: object) -> type[CorrelationModel]:
    """Return a class; what is no complete model is refused."""
    if not (isinstance(model, type) and issubclass(model, CorrelationModel)):
        raise InputError(f"{model!r} is not a subclass of homodyne.physics.model.CorrelationModel")
    missing = sorted(model.__abstractmethods__) + ["name"] * (not isinstance(getattr(model, "name", None), str))
    if missing:
        raise InputError(f"the model {model.__qualname__} lacks {', '.join(missing)}")
    decoration = getattr(model, "__dataclass_params__", None)
    if decoration is None or not decoration.frozen:
        raise InputError(
            f"the model {model.__qualname__} is no frozen dataclass: write @dataclass(frozen=True) above it"
        )
    if taken := [name for name in _NO_OPTIONS if name in getattr(model, "__dataclass_fields__", {})]:
        raise InputError(f"options of {model.__qualname__} are called {', '.join(taken)}: write these without a type")
    try:
        example = model()
    except TypeError as error:
        raise InputError(f"every option of {model.__qualname__} needs a default: {error}") from error
    check_parameters(example)
    return model


_MODELS = "homodyne.physics.models"
MODELS: Registry[type[CorrelationModel]] = Registry(
    "model",
    "homodyne.models",
    {
        "static": f"{_MODELS}.static:Static",
        "laminar_flow": f"{_MODELS}.laminar_flow:LaminarFlow",
        "heterodyne": f"{_MODELS}.heterodyne:Heterodyne",
        "stretched": f"{_MODELS}.stretched:Stretched",
    },
    lambda name, model: check_model_class(model),
    aliases={"static_isotropic": "static", "static_anisotropic": "static", "two_component": "heterodyne"},
)
"""Models by name; `register_model` adds to them."""


def check_parameters(model: CorrelationModel) -> None:
    """Refuse parameters, and power laws and growths among them, that nothing can be done with."""
    who, names = type(model).__qualname__, model.parameter_names
    if not names or [name for name in names if not name.isidentifier() or name in _OTHER_NAMES] or _repeated(names):
        raise InputError(
            f"parameters of {who} are {', '.join(names) or 'none'}: expected different identifiers other than "
            f"{', '.join(_OTHER_NAMES)}"
        )
    laws, growths = model.coordinates(), model.growths()
    taken = [name for law in laws for name in (law.amplitude, law.exponent, law.offset) if name is not None]
    taken += [name for law in growths for name in (law.amplitude, law.exponent, law.constant)]
    if unknown := [name for name in (*taken, *(law.reference for law in growths)) if name not in names]:
        raise InputError(f"laws of {who} name {', '.join(unknown)}: expected parameters, {', '.join(names)}")
    rates = [law.rate for law in laws] + [law.rate for law in growths]
    if repeated := _repeated(taken) + _repeated(rates):
        raise InputError(f"{', '.join(repeated)} stands twice in the laws of {who}: expected each name once")
    signed = [law.amplitude for law in laws if not model.parameters[names.index(law.amplitude)].support[0] >= 0]
    if signed:
        raise InputError(f"amplitudes {', '.join(signed)} of {who} may be negative: give them support=(0.0, math.inf)")


def find_model(name: str, options: Mapping[str, object] | None = None, *, importing: bool = True) -> CorrelationModel:
    """Return the model of a name, with its options.

    Parameters
    ----------
    name : str
        Registered name or alias, or ``module:Class`` in a module that Python finds.
    options : mapping, optional
        Options of the model.
    importing : bool
        Whether a module may be imported; results and stores that name one do not get that right. Packages that were
        installed with an entry point are always found.

    Raises
    ------
    InputError
        There is no such model, it has no such option, or the option no such value.
    """
    chosen = find_model_class(name, importing=importing)
    types, given = get_type_hints(chosen), dict(as_mapping("options", options))
    known = [one.name for one in fields(chosen)]  # type: ignore[arg-type]  # frozen dataclasses, by their check
    for key in given:
        if key not in known:
            raise InputError(
                f"the model {name} has no option {key}; " + (suggestion(key, known) if known else "it has none")
            )
        given[key] = _option(f"{key} of {name}", given[key], types[key])
    model = chosen(**given)
    check_parameters(model)
    return model


def model_for(names: Iterable[str]) -> CorrelationModel:
    """Return the registered model with the fewest parameters that has all of `names`."""
    wanted = set(map(str, names))
    fitting = [model for model in (find_model(name) for name in MODELS) if wanted <= set(model.parameter_names)]
    if not fitting:
        raise InputError(
            f"no model has the parameters {', '.join(sorted(wanted))}: name the model, one of {', '.join(MODELS)}"
        )
    return min(fitting, key=lambda model: len(model.parameter_names))


def complete_params(model: CorrelationModel, given: Mapping[str, float]) -> dict[str, float]:
    """Values of all parameters of a model, in its order: those given, and those that are fixed by default.

    Raises
    ------
    InputError
        A value is missing, not finite or impossible, or belongs to no parameter.
    """
    names, given = model.parameter_names, as_mapping("params", given)
    if unknown := [str(name) for name in given if name not in names]:
        raise InputError(f"unknown parameter {unknown[0]} of {model.name}; {suggestion(unknown[0], names)}")
    values = {one.name: given.get(one.name, one.fixed) for one in model.parameters}
    if missing := [name for name, value in values.items() if value is None]:
        raise InputError(f"missing parameter {', '.join(missing)} of {model.name}: add a value for each")
    with Faults() as faults:
        for one in model.parameters:
            faults.number(one.name, values[one.name], least=one.support[0], most=one.support[1])
    return {name: float(value) for name, value in values.items() if value is not None}


@partial(jax.jit, static_argnums=0)
def supported(model: CorrelationModel, params: Params, t_first: Real, t_last: Real) -> jax.Array:
    """Compiled `CorrelationModel.supported`, for numbers or for arrays of one shape."""
    return model.supported(params, t_first, t_last)


def reference_of(model: CorrelationModel) -> str:
    """Name by which `find_model` finds the class of a model in any process.

    It is the name of the model where this package or an entry point brings it, and ``module:Class`` otherwise.
    """
    kind = type(model)
    brought = kind.__module__.startswith("homodyne.") or bool(entry_points(group=MODELS.group, name=model.name))
    known = brought and model.name in MODELS.names() and MODELS.find(model.name) is kind
    return model.name if known else f"{kind.__module__}:{kind.__qualname__}"


def find_model_class(name: str, *, importing: bool = True) -> type[CorrelationModel]:
    """Return the class of a model; parameters as of `find_model`."""
    return MODELS.find(name, importing=importing)


def _option(where: str, value: object, kind: object) -> object:
    """Value of an option, checked where its type is one of the simple ones."""
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise InputError(f"{where} is {value!r}: expected one of {', '.join(map(str, get_args(kind)))}")
    if kind is bool and not isinstance(value, bool):
        raise InputError(f"{where} is {value!r}: expected true or false")
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(f"{where} is {value!r}: expected a number")
        return float(value)
    return value


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
