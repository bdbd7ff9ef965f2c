"""The configuration: one tree of frozen records; every key, its default, range and unit stand here once.

`Config` is the root. Two of its sections have the keys of the correlation model that `analysis_mode` names: `model`,
its options, and `parameters`; `keys_of` lists the keys of every section. `homodyne.config.io` reads and writes it as
YAML; unknown keys are refused there with the nearest known key named.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from math import inf, isfinite
from typing import Annotated, Any, Literal, NamedTuple, Required, Self, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from typing_extensions import TypedDict

from homodyne.arguments import MOST, Json
from homodyne.errors import InputError
from homodyne.physics.model import CorrelationModel, Parameter, find_model, find_model_class
from homodyne.registries import BACKENDS, COMBINERS, SAMPLERS, STRATEGIES, Registry


@dataclass(frozen=True, eq=False)
class Named:
    """Validator of a name in a registry; one that is not known stays when that is a stored configuration's."""

    registry: Registry[Any]

    def __call__(self, name: str, info: ValidationInfo) -> str:
        """The name under which the entry is listed."""
        importing = (info.context or {}).get("importing")
        name = self.registry.name_of(name)
        known = name in self.registry or name in self.registry.reserved
        if not known and importing is not False:
            self.registry.find(name, importing=bool(importing))
        return name


class Section(BaseModel):
    """A part of the configuration: immutable, typed strictly, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


MOST_ROWS = 10_000_000
"""Most candidates, points or draws: 80 MB for each parameter. More is refused instead of running out of memory."""

Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]


class NormalPrior(Section):
    """Normal distribution."""

    type: Literal["normal"]
    mean: float
    sd: PositiveFloat


class LognormalPrior(Section):
    """The logarithm is normal with mean log(median) and standard deviation sigma."""

    type: Literal["lognormal"]
    median: PositiveFloat
    sigma: PositiveFloat


class UniformPrior(Section):
    """Uniform between two values."""

    type: Literal["uniform"]
    low: float
    high: float


class LoguniformPrior(Section):
    """The logarithm is uniform between two positive values."""

    type: Literal["loguniform"]
    low: PositiveFloat
    high: PositiveFloat


class TruncatedNormalPrior(Section):
    """Normal distribution cut at two values."""

    type: Literal["truncated_normal"]
    mean: float
    sd: PositiveFloat
    low: float
    high: float


class HalfNormalPrior(Section):
    """Absolute value of a normal variable with mean zero."""

    type: Literal["half_normal"]
    sd: PositiveFloat


class SharePrior(Section):
    """Of the offset of a power law: log-normal in the share of that law in the rate in the middle of the record."""

    type: Literal["share"]
    median: PositiveFloat
    sigma: PositiveFloat


AnyPrior = (
    NormalPrior | LognormalPrior | UniformPrior | LoguniformPrior | TruncatedNormalPrior | HalfNormalPrior | SharePrior
)
Prior = Annotated[AnyPrior, Field(discriminator="type")]


class ParameterConfig(Section):
    """What the user knows about one physical parameter; keys left out take the defaults of the mode."""

    prior: Prior | None = Field(None, description="prior distribution of the physical value")
    bounds: Annotated[tuple[float, float], Field(strict=False)] | None = Field(
        None, description="[low, high]: values outside are impossible"
    )
    initial: float | None = Field(None, description="where the pilot fit starts first")
    fixed: float | None = Field(None, description="hold the parameter at this value instead of fitting it")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds need low < high, got {list(self.bounds)}")
        idle = [name for name in ("prior", "bounds", "initial") if getattr(self, name) is not None]
        if self.fixed is not None and idle:
            raise ValueError(f"a fixed parameter has no {' and no '.join(idle)}: keep either fixed or the others")
        return self


class ScalingConfig(Section):
    """Prior of the contrast or the offset, which are integrated out for every angle.

    A loguniform one is made of normal distributions, one for every factor of two, so that its ends are soft.
    """

    prior: Annotated[NormalPrior | LoguniformPrior, Field(discriminator="type")]


class ModelConfig(Section):
    """Options of the model, by name."""

    model_config = ConfigDict(extra="allow")

    def given(self) -> dict[str, Json]:
        """Return the options that the user chose."""
        return dict(self.__pydantic_extra__ or {})


class ParametersConfig(Section):
    """Parameters of the model by name, and the prior of the two scaling parameters."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ParameterConfig]

    contrast: ScalingConfig = Field(
        ScalingConfig(prior=LoguniformPrior(type="loguniform", low=0.01, high=1.0)),
        description="speckle contrast of every angle",
    )
    offset: ScalingConfig = Field(
        ScalingConfig(prior=NormalPrior(type="normal", mean=1.0, sd=0.1)), description="baseline of c2 of every angle"
    )

    def given(self) -> dict[str, ParameterConfig]:
        """Return the parameters of the model about which the user said something."""
        return {name: value for name, value in self.__pydantic_extra__.items() if value != ParameterConfig()}


_Q = "expected a positive number in 1/Å, a list of them, a range low:high, or all"
_ANGLES = "expected a range low:high, such as -30:30, or a list of angles in degrees"
_FRAMES = "expected [first, last] or first:last, counted from 1, first < last"


def _number(text: str) -> float:
    """Read a number as YAML does: no digits of other scripts, no underscores."""
    if not text.isascii() or "_" in text:
        raise ValueError
    return float(text)


def _range_ends(text: str, expected: str) -> tuple[float, float]:
    """Read "low:high", two finite numbers."""
    try:
        low, high = (_number(end) for end in text.split(":"))
    except ValueError:
        raise ValueError(expected) from None
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(expected)
    return low, high


def _numbers(given: Json, expected: str) -> str | tuple[float, ...]:
    """Normalise a choice of numbers: a range as the text "low:high", or a tuple of numbers.

    A text is a range, or numbers with commas between them. From Python, a tuple of two numbers is a range and a list is
    a list, as in `homodyne.load`.
    """
    if isinstance(given, str) and ":" not in given:
        try:
            given = [_number(number) for number in given.split(",")]
        except ValueError:
            raise ValueError(expected) from None
    if isinstance(given, str) or (isinstance(given, tuple) and len(given) == 2):
        low, high = _range_ends(given, expected) if isinstance(given, str) else given
        return f"{float(low)!r}:{float(high)!r}"
    numbers = given if isinstance(given, (list, tuple)) else [given]
    if numbers and all(type(number) in (int, float) and isfinite(number) for number in numbers):
        return tuple(float(number) for number in numbers)
    raise ValueError(expected)


def _angles(given: object) -> str | tuple[float, ...] | None:
    """Normalise an angle selection; None stays."""
    return None if given is None else _numbers(given, _ANGLES)


def _wavevectors(given: object) -> str | float | tuple[float, ...] | None:
    """Normalise a selection of q; None and "all" stay, a single number is one."""
    if given is None or given == "all":
        return given and str(given)
    found = _numbers(given, _Q)
    ends = _range_ends(found, _Q) if isinstance(found, str) else found
    if min(ends) < 0 or (0 in ends and not isinstance(found, str)):
        raise ValueError(_Q)
    return found if isinstance(found, str) or len(found) > 1 else found[0]


def _frames(given: object) -> tuple[int, int] | None:
    """Normalise a frame range: None, [first, last] or "first:last"."""
    if given is None:
        return None
    ends = _range_ends(given, _FRAMES) if isinstance(given, str) else given
    if isinstance(ends, (list, tuple)) and [type(end) in (int, float) for end in ends] == [True, True]:
        first, last = ends
        if 1 <= first < last < inf and first % 1 == last % 1 == 0:
            return int(first), int(last)
    raise ValueError(_FRAMES)


class ExperimentalData(Section):
    """Which measurement, and which part of it."""

    file_path: str | None = Field(None, description="data file; relative to the folder of the configuration file")
    q: Annotated[str | float | tuple[float, ...] | None, BeforeValidator(_wavevectors)] = Field(
        None,
        description="wavevectors in 1/Å: a number or a list (the nearest in the file), a range low:high, or all; "
        "not needed when the file has only one",
    )
    phi: Annotated[str | tuple[float, ...] | None, BeforeValidator(_angles)] = Field(
        None, description="angles in degrees: a range low:high or a list; all by default"
    )
    frames: Annotated[tuple[int, int] | None, BeforeValidator(_frames)] = Field(
        None, description="first and last frame, counted from 1: [1, 1000] or 1:1000; all by default"
    )
    dt: PositiveFloat | None = Field(
        None, description="seconds between frames; only for files that do not say; a contradiction is an error"
    )
    gap: PositiveFloat | None = Field(
        None, description="distance of the plates in Å (2e6 = 200 µm); needed for laminar flow"
    )
    format: str | None = Field(None, description="file format; recognised from the content by default")
    units: dict[str, str] | None = Field(
        None, description="units of frame_time, q and phi in the file where it does not state them, such as {q: 1/nm}"
    )
    age_origin: float = Field(0.0, description="age of the sample in seconds one frame before the first selected one")

    @property
    def q_selection(self) -> str | float | list[float] | None:
        """The wave vectors as `homodyne.load` takes them."""
        return list(self.q) if isinstance(self.q, tuple) else self.q

    @property
    def phi_selection(self) -> tuple[float, float] | list[float] | None:
        """The angles as `homodyne.load` takes them: a tuple for a range, a list for single angles."""
        if isinstance(self.phi, str):
            return _range_ends(self.phi, _ANGLES)
        return None if self.phi is None else list(self.phi)

    @property
    def selection(self) -> dict[str, Json]:
        """What says which data are meant, as `homodyne.load` and `require_selected` take it."""
        own = {name: getattr(self, name) for name in ("frames", "gap", "dt", "age_origin")}
        return {"q": self.q_selection, "phi": self.phi_selection, **own}


class NLSQConfig(Section):
    """Pilot fit: least squares from many starting points."""

    num_candidates: Rows = Field(1000, description="draws from the prior that are compared on thinned data")
    num_starts: Rows = Field(12, description="best of them, from which the fit climbs side by side")
    max_iterations: PositiveInt = Field(100, description="iterations of each climb")
    thin_points: PositiveInt = Field(20_000, description="pairs of frames used until the modes are found")


class LaplaceConfig(Section):
    """Normal approximation at the mode."""

    num_draws: Annotated[int, Field(ge=100, le=MOST_ROWS)] = Field(
        1000, description="draws of the approximation, and of the weighted points that replace it"
    )


class MCMCConfig(Section):
    """No-U-turn sampler."""

    num_warmup: Rows = Field(60, description="warm-up transitions per chain")
    num_samples: Rows = Field(250, description="draws kept per chain")
    num_chains: Annotated[int, Field(ge=2, le=1000)] = Field(
        4, description="chains; at least 2, so that R-hat means something"
    )
    target_accept_prob: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.7, description="acceptance rate aimed at")
    max_gradients: PositiveInt = Field(500_000, description="budget of gradients of all chains together")


def _shard_count(given: object) -> object:
    """Accept a number of shards or the word auto; one message for both."""
    if given == "auto" or (type(given) is int and given >= 1):
        return given
    raise ValueError("expected auto or an integer of 1 or more")


class ShardingConfig(Section):
    """How the data are split into shards."""

    strategy: Annotated[str, AfterValidator(Named(STRATEGIES))] = Field(
        "interleaved", description="interleaved and frame_blocks keep the grid of the maps, which is fastest"
    )
    num_shards: Annotated[int | Literal["auto"], BeforeValidator(_shard_count)] = Field(
        "auto", description="auto takes as few as workers and memory allow"
    )
    max_points_per_shard: PositiveInt | None = Field(None, description="most pairs of frames in one shard, for auto")


class InitializationConfig(Section):
    """Where the chains of the shards start."""

    method: Literal["nlsq", "svi", "identity"] = Field(
        "nlsq", description="pilot fit, variational inference on a pooled sample, or the pilot mode with unit widths"
    )
    svi_steps: Annotated[int, Field(ge=100, le=MOST_ROWS)] = Field(1500, description="steps of svi")
    svi_learning_rate: PositiveFloat = Field(0.02, description="first step size of svi, in whitened coordinates")
    svi_rank: PositiveInt = Field(5, description="rank of the covariance of svi")


_WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.@/+-]*$"
Word = Annotated[str, Field(pattern=_WORD)]
"""Name at a cluster: nothing in it means anything to a shell or starts an option."""

_WALLTIME = re.compile(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])")


def _walltime(given: object) -> str:
    """Normalise a time limit to hours:minutes:seconds, which all schedulers read alike."""
    found = _WALLTIME.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise ValueError(
            "expected hours:minutes:seconds, such as 00:30:00, or days-hours:minutes:seconds; a single number means "
            "seconds to PBS and minutes to Slurm"
        )
    days, hours, minutes, seconds = found.groups()
    return f"{24 * int(days or 0) + int(hours):02d}:{minutes}:{seconds}"


Directive = Annotated[str, Field(pattern=r"^-[A-Za-z0-9_=:,.@/+% -]+$")]


class JobsConfig(Section):
    """Jobs of a scheduler: one element of an array for each shard, on one node."""

    account: Word | None = Field(None, description="account or project that pays")
    queue: Word | None = Field(None, description="queue, or partition of Slurm")
    walltime: Annotated[str, BeforeValidator(_walltime)] = Field(
        "01:00:00", description="time limit of one shard, hours:minutes:seconds, or days before them: 1-12:00:00"
    )
    cpus: PositiveInt = Field(1, description="cores of one shard")
    memory_gb: PositiveFloat | None = Field(None, description="memory of one shard in GiB")
    gpus: NonNegativeInt = Field(0, description="GPUs of one shard")
    select: Annotated[str, Field(pattern=r"^[0-9]+(:[A-Za-z0-9_]+(=[A-Za-z0-9_.:/+-]+)?)*$")] | None = Field(
        None, description="PBS: what -l select (Torque: -l nodes) asks for, instead of cpus, memory_gb and gpus"
    )
    directives: Annotated[tuple[Directive, ...], Field(strict=False)] = Field(
        (), description="further options of the scheduler, such as -l filesystems=home"
    )
    modules: Annotated[tuple[Word, ...], Field(strict=False)] = Field((), description="environment modules to load")
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        {}, description="environment variables by name"
    )
    log_directory: str | None = Field(None, description="folder of what the jobs print; jobs in the store by default")
    max_running: PositiveInt | None = Field(None, description="most shards at a time")
    max_array_size: Annotated[int, Field(ge=2)] = Field(1000, description="most shards in one job")
    python: str | None = Field(None, description="interpreter of the jobs; the one that runs now by default")
    evaluate_in_jobs: bool = Field(
        False, description="evaluate exact densities in jobs too, instead of on the machine of `homodyne fit`"
    )

    @property
    def num_cpus(self) -> int:
        """Cores that a shard is given: those of `select` where it says (ncpus, or ppn of Torque)."""
        return self._selected("ncpus", "ppn", otherwise=self.cpus)

    @property
    def num_gpus(self) -> int:
        """GPUs that a shard is given: those of `select` where that is used."""
        return self.gpus if self.select is None else self._selected("ngpus", "gpus", otherwise=0)

    def _selected(self, *names: str, otherwise: int) -> int:
        said = dict(part.partition("=")[::2] for part in (self.select or "").split(":"))
        return next((int(said[name]) for name in names if re.fullmatch("[0-9]+", said.get(name, ""))), otherwise)


class BackendConfig(Section):
    """Where the shards are sampled."""

    name: Annotated[str, AfterValidator(Named(BACKENDS))] = Field(
        "auto", description="what runs the shards: its name, or module:Class of your own; auto: what suits this machine"
    )
    num_workers: PositiveInt | None = Field(None, description="worker processes; one for each core by default")
    timeout: PositiveFloat | None = Field(None, description="seconds that one attempt at a shard may take")
    max_attempts: PositiveInt = Field(2, description="times that a shard is tried")
    enable_checkpoints: bool | None = Field(
        None, description="keep every finished shard in checkpoint_dir; by default where one is named"
    )
    checkpoint_frequency: PositiveInt = Field(
        1, description="finished shards that are written together; a kill loses those that are not yet written"
    )
    checkpoint_dir: str | None = Field(
        None,
        description="folder of the finished shards, in a file relative to its folder, else to the working directory; "
        "`homodyne fit` takes OUTPUT.store, from Python none are kept",
    )
    resume_from_checkpoint: bool = Field(
        True, description="go on with the finished shards that are there; false refuses a folder that holds some"
    )
    spread: Annotated[str, AfterValidator(Named(BACKENDS))] | None = Field(
        None,
        description="what runs the fits of several measurements, by its name, with the workers, attempts and jobs that "
        "are given here for shards; by default they run one after the other",
    )
    jobs: JobsConfig = JobsConfig()


class CombinationConfig(Section):
    """How the subposteriors become one."""

    method: Annotated[str, AfterValidator(Named(COMBINERS))] = Field(
        "weighted", description="product of normal approximations, or another way"
    )
    fallback_enabled: bool = Field(True, description="pool the draws where the method cannot be applied, and say so")
    tree_depth: PositiveInt = Field(2, description="levels of the hierarchical combination")
    min_success_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.9, description="share of the shards that must have been sampled"
    )
    num_draws: Annotated[int, Field(ge=100, le=MOST_ROWS)] = Field(1000, description="draws of the combined posterior")


class ShardMCMCConfig(Section):
    """No-U-turn sampler of every shard."""

    num_warmup: Rows = Field(60, description="warm-up transitions per chain")
    num_samples: Annotated[int, Field(ge=50, le=MOST_ROWS)] = Field(150, description="draws kept per chain")
    num_chains: Annotated[int, Field(ge=2, le=1000)] = Field(
        2, description="chains; at least 2, so that R-hat means something"
    )
    target_accept_prob: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(0.7, description="acceptance rate aimed at")
    cavity: Annotated[float, Field(ge=0.0, le=100.0)] = Field(
        3.0, description="what a shard is given of the others, in units of what it knows itself; 0: plain consensus"
    )


class ValidationConfig(Section):
    """Checks of the shards against each other."""

    strict: bool = Field(True, description="refuse the result when shards contradict each other")


class CMCConfig(Section):
    """Consensus Monte Carlo."""

    enable: Literal[True, False, "auto"] = Field(
        "auto", description="whether method auto prefers cmc to nuts; auto goes by number of points and memory"
    )
    min_points_for_cmc: PositiveInt = Field(
        200_000_000, description="pairs of frames from which auto prefers cmc to nuts, whatever the memory"
    )
    escalate: bool = Field(True, description="sample all data with nuts when the result is refused")
    sharding: ShardingConfig = ShardingConfig()
    initialization: InitializationConfig = InitializationConfig()
    backend: BackendConfig = BackendConfig()
    combination: CombinationConfig = CombinationConfig()
    per_shard_mcmc: ShardMCMCConfig = ShardMCMCConfig()
    validation: ValidationConfig = ValidationConfig()


class OptimizationConfig(Section):
    """How the posterior is computed."""

    method: Annotated[str, AfterValidator(Named(SAMPLERS))] = Field(
        "auto", description="auto takes the cheapest method whose result is certified"
    )
    nlsq: NLSQConfig = NLSQConfig()
    laplace: LaplaceConfig = LaplaceConfig()
    mcmc: MCMCConfig = MCMCConfig()
    cmc: CMCConfig = CMCConfig()


class CertificateConfig(Section):
    """Check of the posterior against exact evaluations."""

    num_points: Annotated[int, Field(ge=100, le=MOST_ROWS)] = Field(
        1000, description="exact evaluations of the posterior"
    )


class OutputConfig(Section):
    """What is written where."""

    directory: str = Field(
        "homodyne_result", description="folder for result.nc, summary.txt, config.yaml, report.html and figures"
    )
    figures: bool = Field(True, description="draw figures, those of the report included")
    report: bool = Field(True, description="write report.html")
    overwrite: bool = Field(False, description="replace a result that is already there")


class SpeckleConfig(Section):
    """What is known of photons and pixels; found in the data by default."""

    mean_counts: PositiveFloat | None = Field(
        None, description="counts per pixel and frame; from the raw diagonal, the file or the residuals by default"
    )
    pixels: PositiveFloat | None = Field(
        None, description="independent pixels in each map; from the residuals by default"
    )


class ReductionConfig(Section):
    """How the pairs of frames of a map become few weighted nodes, and how that is checked."""

    order: Annotated[int, Field(ge=2, le=24)] = Field(8, description="nodes along each side of a cell")
    # small cells may err ten times as much; where that reaches one, the size of g, sums over nodes can be negative
    tolerance: Annotated[float, Field(gt=0.0, le=0.1)] = Field(
        1e-4, description="error of g that is allowed between the nodes"
    )
    max_error: PositiveFloat = Field(
        0.05, description="scatter of the error of the log density over the draws that is allowed"
    )
    num_checks: Annotated[int, Field(ge=2)] = Field(
        8, description="draws at which the log density is compared with the sum over all pairs"
    )
    backend: Annotated[str, AfterValidator(Named(BACKENDS))] | None = Field(
        None,
        description="what reads the maps, one task for each, by its name, with the limits and jobs of "
        "optimization.cmc.backend; by default threads of this process",
    )
    store: str | None = Field(
        None, description="folder that keeps what was read from the maps, for fits of the same data; none by default"
    )


def known_model(name: Json, options: Mapping[str, Json] | None = None) -> CorrelationModel | None:
    """Return a model that is registered or imported already; None for any other, or for options that it has not."""
    try:
        return find_model(name, options, importing=False)
    except InputError:
        return None


def _mode(name: str, info: ValidationInfo) -> str:
    """Name of a model, aliases replaced; a name that is not known stays when that is a stored configuration's."""
    importing = (info.context or {}).get("importing")
    try:
        found = find_model_class(name, importing=bool(importing))
    except InputError:
        if importing is False:
            return name
        raise
    return name if ":" in name else found.name


def _options(given: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    """Check the options of a model that is known, by making it."""
    try:
        kind = find_model_class(str(info.data.get("analysis_mode")), importing=False)
    except InputError:
        return handler(given)
    hints, shapes = get_type_hints(kind), {}
    for one in _option_fields(kind):
        shape = hints[one.name]
        if get_origin(shape) is tuple:  # a list in YAML
            shape = Annotated[shape, Field(strict=False)]
        required = one.default is MISSING and one.default_factory is MISSING
        shapes[one.name] = Required[shape] if required else shape
    options = _checked(shapes, given)
    find_model(info.data["analysis_mode"], options, importing=False)
    return handler(options)


def _parameters(given: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    """Check the names of the parameters of a model that is known; other names of them are replaced."""
    chosen = info.data.get("model")
    model = known_model(info.data.get("analysis_mode"), chosen.given() if isinstance(chosen, ModelConfig) else None)
    if model is None:
        return handler(given)
    shapes = {
        one.name: Annotated[ParameterConfig, Field(validation_alias=AliasChoices(one.name, *one.aliases))]
        for one in model.parameters
    }
    scaling = {name: field.annotation for name, field in ParametersConfig.model_fields.items()}
    checked = _checked(shapes | scaling, given)
    return handler({name: value for name, value in checked.items() if value != ParameterConfig()})


def _option_fields(model: object) -> tuple[Any, ...]:
    """Fields of a model that are its options."""
    return fields(model) if is_dataclass(model) else ()


def _checked(shapes: Mapping[str, Json], given: object) -> dict[str, Json]:
    """Values by name, each of its type; no other names."""
    shape = TypedDict("shape", shapes, total=False)  # type: ignore[misc]  # the names are known when this runs
    settings = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    shape.__pydantic_config__ = settings  # type: ignore[attr-defined]
    values = dict(given) if isinstance(given, Section) else given
    checked: Any = TypeAdapter(shape).validate_python(values)
    return dict(checked)


class Config(Section):
    """The whole configuration."""

    analysis_mode: Annotated[str, AfterValidator(_mode)] = Field(
        "laminar_flow", description="correlation model: its name, or module:Class for one of your own"
    )
    model: Annotated[ModelConfig, WrapValidator(_options)] = Field(
        ModelConfig(), description="options of the model", validate_default=True
    )
    experimental_data: ExperimentalData = ExperimentalData()
    parameters: Annotated[ParametersConfig, WrapValidator(_parameters)] = Field(
        ParametersConfig(),
        description="what is known of each: prior of the value, bounds: [low, high], initial: value; or fixed: value",
    )
    noise: Literal["fixed", "sampled"] = Field(
        "fixed", description="noise level of each angle: from the pilot fit, or a parameter of the posterior"
    )
    uncertainty: Literal["calibrated", "independent"] = Field(
        "calibrated",
        description="calibrated: points that share frames share noise; independent: every point has its own",
    )
    speckle: SpeckleConfig = SpeckleConfig()
    reduction: ReductionConfig = ReductionConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    certificate: CertificateConfig = CertificateConfig()
    output: OutputConfig = OutputConfig()
    seed: NonNegativeInt = Field(0, le=MOST, description="seed of every random number of the run")

    @model_validator(mode="after")
    def _one_noise(self) -> Self:
        if self.noise == "sampled" and self.uncertainty == "calibrated":
            raise ValueError("noise: sampled learns the noise from independent points: add uncertainty: independent")
        if self.noise == "sampled" and self.optimization.method == "cmc":
            raise ValueError("noise: sampled is not possible with method cmc: use noise: fixed, or method nuts")
        return self


class Key(NamedTuple):
    """One key of a section: name, meaning, the values it may have where these are few, and the section that it is."""

    name: str
    description: str
    choices: tuple[object, ...] = ()
    section: type[Section] | None = None


def keys_of(section: type[Section], model: CorrelationModel | None = None) -> list[Key]:
    """List the keys of a section; where they are those of the model, of the given one."""
    keys = []
    if section is ModelConfig and model is not None:
        hints = get_type_hints(type(model))
        options = _option_fields(model)
        keys += [Key(one.name, one.metadata.get("description", ""), _choices(hints[one.name])) for one in options]
    if section is ParametersConfig and model is not None:
        keys += [Key(one.name, _meaning(one), section=ParameterConfig) for one in model.parameters]
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            title = (kind.__doc__ or "").rstrip(".")
            keys.append(Key(name, field.description or title[:1].lower() + title[1:], section=kind))
        else:
            known = tuple(one.func.registry for one in field.metadata if isinstance(getattr(one, "func", None), Named))
            choices = known[0].listed() if known else _choices(kind)
            keys.append(Key(name, field.description or "", choices))
    return keys


def _choices(kind: object) -> tuple[object, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _meaning(parameter: Parameter) -> str:
    """Description of a parameter, with its unit."""
    unit = "" if parameter.unit in parameter.description else parameter.unit
    return ", ".join(filter(None, [parameter.description, unit]))
