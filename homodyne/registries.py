"""What can be exchanged, by name, and what a name stands for: one `Registry` for each kind of thing.

    registry     entry                                                              entry points of packages
    BACKENDS     class or function of `BackendOptions` that makes a `CMCBackend`     homodyne.backends
    COMBINERS    `Combiner`, or function of subposteriors and a request              homodyne.combiners
    STRATEGIES   `Strategy`: how points, rows and maps are dealt out to shards       homodyne.strategies
    SAMPLERS     function that draws from the posterior of a fit                     homodyne.samplers
    FORMATS      module that reads a file format                                     homodyne.formats
    NOISE        `NoiseSource`: an estimate of the speckle noise                     homodyne.noise
    MODELS       subclass of `CorrelationModel`, in `homodyne.physics.model`         homodyne.models

Configurations name them before anything of the engine is loaded, so those of the package stand here as ``module:name``
and are imported when they are first used.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from homodyne.arguments import shown
from homodyne.errors import InputError
from homodyne.references import import_reference, is_module

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """Things of one kind by name: of this package, of installed packages (entry points), and one's own.

    Parameters
    ----------
    kind
        What they are, for messages.
    group
        Group of the entry points.
    shipped
        Those of this package, or where they are, as ``module:name``.
    checked
        Returns the entry that was given, in the form in which it is used, or raises an InputError.
    aliases
        Other names.
    reserved
        Names that mean something else.
    modules
        Whether entries are modules, which are named without a colon.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        shipped: Mapping[str, T | str],
        checked: Callable[[str, object], T],
        *,
        aliases: Mapping[str, str] | None = None,
        reserved: tuple[str, ...] = (),
        modules: bool = False,
    ) -> None:
        self.kind, self.group, self.reserved, self._modules = kind, group, reserved, modules
        self._entries: dict[str, Any] = dict(shipped)
        self._shipped = frozenset(shipped)
        self._checked, self._aliases = checked, dict(aliases or {})

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = self._checked(name, import_reference(entry, self.kind))
        return entry  # type: ignore[no-any-return]  # as it was checked

    def __setitem__(self, name: str, entry: T | str) -> None:
        self._entries[name] = entry if isinstance(entry, str) else self._checked(name, entry)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # without importing it

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str, entry: T | str) -> None:
        """Make an entry known under a name, for Python and for configurations of this process.

        Parameters
        ----------
        name
            Free in this registry.
        entry
            As the table above says, or where it is: ``module:name``.

        Raises
        ------
        InputError
            The name is taken, or the entry cannot be used.
        """
        if self.name_of(name) in self.names():
            raise InputError(f"the name {name!r} of a {self.kind} is taken; known: {', '.join(self.names())}")
        self[name] = entry

    def names(self) -> list[str]:
        """Every name that may be given, those of entry points among them."""
        return sorted({*self.reserved, *self._entries, *self._aliases, *entry_points(group=self.group).names})

    def listed(self) -> tuple[str, ...]:
        """Names of the entries here, and what else may be given, as documents list them."""
        return (*self.reserved, *self._entries)

    def name_of(self, given: str) -> str:
        """Name under which an entry is listed, for that and for its other names; InputError for what is no text."""
        if not isinstance(given, str):
            raise InputError(f"the {self.kind} is {shown(given)}; expected a name, one of {', '.join(self.names())}")
        return self._aliases.get(given, given)

    def added(self) -> dict[str, Any]:
        """What this process has registered beside the entries of the package."""
        return {name: entry for name, entry in self._entries.items() if name not in self._shipped}

    def find(self, name: str, *, importing: bool = True) -> T:
        """Entry of a name, or of ``module:name``.

        Parameters
        ----------
        name
            In the registry, of an entry point, or where the entry is.
        importing
            Whether a module named in `name` may be imported: only where a person has named it. What stands in a store
            or a result is found when its module is imported already.

        Raises
        ------
        InputError
            There is none, or it cannot be used.
        """
        name = self.name_of(name)
        if name in self._entries:
            return self[name]
        if ":" not in name and not (self._modules and is_module(name)):
            for one in entry_points(group=self.group, name=name):
                return self._checked(name, one.load())
            own = "a module" if self._modules else "'module:name'"
            known = f"{', '.join(sorted({*self.names()} - {*self._aliases}))}, or {own} of your own"
            near = get_close_matches(name.lower(), self.names(), 1)
            asked = f"did you mean {near[0]}? Known are" if near else "expected one of"
            raise InputError(f"unknown {self.kind} {name!r}; {asked} {known}")
        module, _, attribute = name.partition(":")
        if importing:
            return self._checked(name, import_reference(name, self.kind))
        if module not in sys.modules:
            raise InputError(f"the {self.kind} {name!r} is not one of this package: import {module} before")
        found = sys.modules[module]
        return self._checked(name, vars(found).get(attribute) if attribute else found)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What is registered or removed in the ``with`` block is forgotten after it."""
        before = dict(self._entries)
        try:
            yield
        finally:
            self._entries = before


def suggestion(word: str, known: Iterable[str]) -> str:
    """Sentence that names what was probably meant, or everything that is known."""
    spelt = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), spelt, 1)
    return f"did you mean {spelt[near[0]]}?" if near else f"expected one of {', '.join(spelt.values())}"


def _callable(kind: str, takes: str) -> Callable[[str, object], Any]:
    """Check of an entry that is called."""

    def checked(name: str, entry: object) -> Any:
        if not callable(entry):
            raise InputError(f"the {kind} {name!r} is {shown(entry)}; expected a class or function of {takes}")
        return entry

    return checked


def _record(kind: str, record: type[T]) -> Callable[[str, object], T]:
    """Check of an entry that is a record, or the function that is its first field."""

    def checked(name: str, entry: object) -> T:
        if isinstance(entry, record):
            return entry
        if callable(entry) and not isinstance(entry, type):
            return record(entry)  # type: ignore[call-arg]  # its first field
        raise InputError(f"the {kind} {name!r} is {shown(entry)}; expected a {record.__name__} or a function")

    return checked


@dataclass(frozen=True)
class Combiner:
    """A way to make one posterior of subposteriors.

    Attributes
    ----------
    combine
        Function of `homodyne.optimization.cmc.combination.Subposteriors` and `Request` that returns `Merged`.
    is_product
        Whether it multiplies the densities of the shards; pooling does not.
    is_normal
        Whether its draws are those of the normal distribution with the mean and covariance it returns.
    """

    combine: Callable[[Any, Any], Any]
    is_product: bool = True
    is_normal: bool = False


@dataclass(frozen=True)
class Strategy:
    """A way to deal out data to shards.

    Attributes
    ----------
    points
        Shard number of each point of flat arrays: (t1, t2, phi, number of shards, generator) -> (N,) integers.
    rows
        Of each row of any data: (number of rows, of shards, generator) -> (N,) integers; None where there is none.
    grid
        Keeps the grid of maps: (number of usable frames, of shards) -> numbers by row and by column, whose sum is that
        of the shard; None where it does not, and points are dealt out.
    rotates
        Whether every map begins where the one before it has stopped, so that small maps fill all shards.
    """

    points: Callable[[Any, Any, Any, int, Any], Any]
    rows: Callable[[int, int, Any], Any] | None = None
    grid: Callable[[int, int], tuple[Any, Any]] | None = None
    rotates: bool = True


@dataclass(frozen=True)
class NoiseSource:
    """An estimate of the speckle noise from elsewhere, that is compared with those of the package.

    Attributes
    ----------
    share
        Function of contrast (n_maps,), white variance (n_maps,) and `CountingFacts` that returns an
        `homodyne.noise.sources.Estimate` of the share of speckle in the noise, or None where it knows none.
    pixels
        The same of the number of independent pixels.
    """

    share: Callable[[Any, Any, Any], Any] | None = None
    pixels: Callable[[Any, Any, Any], Any] | None = None


def _format(name: str, entry: object) -> Any:
    lacking = [part for part in ("NAME", "CONTAINERS", "absent", "catalog") if not hasattr(entry, part)]
    if lacking:
        raise InputError(f"the file format {name!r} is {shown(entry)}, which lacks {', '.join(lacking)}")
    if not isinstance(entry, ModuleType) or entry.__name__ == "__main__":
        raise InputError(
            f"the file format {name!r} is {shown(entry)}; expected a module that Python finds, because files are "
            "opened by another process"
        )
    return entry


_BACKENDS, _COMBINATION, _SHARDING, _READERS = (
    "homodyne.optimization.cmc.backends",
    "homodyne.optimization.cmc.combination",
    "homodyne.optimization.cmc.shard_strategies",
    "homodyne.data.readers",
)

BackendFactory = Callable[[Any], Any]
"""Called with `BackendOptions`, returns a `CMCBackend`; a class of one will do."""

BACKENDS: Registry[BackendFactory] = Registry(
    "backend",
    "homodyne.backends",
    {
        "sequential": f"{_BACKENDS}.base:SequentialBackend",
        "multiprocessing": f"{_BACKENDS}.multiprocessing:MultiprocessingBackend",
        "executor": f"{_BACKENDS}.pools:process_pool_backend",
        "dask": f"{_BACKENDS}.pools:dask_backend",
        "parsl": f"{_BACKENDS}.pools:parsl_backend",
        "pjit": f"{_BACKENDS}.pjit:PjitBackend",
        "ray": f"{_BACKENDS}.ray:RayBackend",
        "slurm": f"{_BACKENDS}.slurm:SlurmBackend",
        "pbs": f"{_BACKENDS}.pbs:PBSBackend",
        "torque": f"{_BACKENDS}.pbs:TorqueBackend",
    },
    _callable("backend", "BackendOptions"),
    reserved=("auto",),
)
"""What runs shards."""

COMBINERS: Registry[Combiner] = Registry(
    "combination method",
    "homodyne.combiners",
    {
        name: f"{_COMBINATION}:{name.upper()}"
        for name in ("weighted", "consensus", "hierarchical", "semiparametric", "swiss", "average")
    },
    _record("combination method", Combiner),
    aliases={"weighted_gaussian": "weighted", "simple_average": "average"},
)
"""Ways to combine subposteriors."""

STRATEGIES: Registry[Strategy] = Registry(
    "sharding strategy",
    "homodyne.strategies",
    {
        name: f"{_SHARDING}:{name.upper()}"
        for name in ("stratified", "time_stratified", "random", "contiguous", "interleaved", "frame_blocks")
    },
    _record("sharding strategy", Strategy),
)
"""Ways to deal out data to shards."""

SAMPLERS: Registry[Callable[..., Any]] = Registry(
    "method",
    "homodyne.samplers",
    {name: f"homodyne.optimization.samplers:{name}" for name in ("laplace", "nuts")},
    _callable("method", "pilot, course, settings and progress"),
    reserved=("auto", "cmc"),
)
"""Ways to draw from the posterior of a fit."""

FORMATS: Registry[Any] = Registry(
    "file format",
    "homodyne.formats",
    {
        "homodyne": f"{_READERS}.native",
        "aps-u": f"{_READERS}.aps_u",
        "aps-8idi": f"{_READERS}.aps_8idi",
        "nxxpcs": f"{_READERS}.nxxpcs",
        "pychx": f"{_READERS}.pychx",
        "npz": f"{_READERS}.npz",
        "npy": f"{_READERS}.npy",
    },
    _format,
    modules=True,
)
"""Readers of files; each is a module."""

NOISE: Registry[NoiseSource] = Registry("noise source", "homodyne.noise", {}, _record("noise source", NoiseSource))
"""Estimates of the speckle noise beside those of the package."""
