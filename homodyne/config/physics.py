"""The physics that a configuration asks for: model, space of its parameters, prior of contrast and offset.

Nothing here imports a module that a configuration names: `homodyne.config.io.load_config` does that, where a person has
named it.
"""

from homodyne.arrays import Array
from homodyne.config.schema import Config, LoguniformPrior, NormalPrior, ParameterConfig
from homodyne.likelihood.scaling import Components, ScalingPrior, loguniform
from homodyne.physics.model import CorrelationModel, Parameter, find_model
from homodyne.physics.priors import Prior, make_prior
from homodyne.physics.space import ParameterSpace, parameter_space


def model_of(config: Config) -> CorrelationModel:
    """Model of a configuration, with its options.

    Raises
    ------
    InputError
        It is one that a result or a store names, and its module is not imported.
    """
    return find_model(config.analysis_mode, config.model.given(), importing=False)


def space_of(config: Config, t: Array) -> ParameterSpace:
    """Parameters of the model with their priors, for a record with frames at the ages t (n,) in s."""
    model, given = model_of(config), config.parameters.given()
    free = {name for name, own in given.items() if own.fixed is None}  # also frees what the model fixes by default
    return parameter_space(
        model,
        t,
        priors={one.name: _prior(one, given[one.name]) for one in model.parameters if one.name in free},
        fixed={name: own.fixed for name, own in given.items() if own.fixed is not None},
    )


def scaling_of(config: Config) -> ScalingPrior:
    """Prior of offset and contrast of every map."""
    parameters = config.parameters
    return ScalingPrior.product(*(_components(own.prior) for own in (parameters.offset, parameters.contrast)))


def _components(prior: NormalPrior | LoguniformPrior) -> Components:
    if isinstance(prior, LoguniformPrior):
        return loguniform(prior.low, prior.high)
    return [(1.0, prior.mean, prior.sd)]


def initial_of(config: Config, space: ParameterSpace) -> Array | None:
    """Coordinates (dim,) at which the user starts the search, completed by prior medians; None when none are given.

    Raises
    ------
    InputError
        A value lies outside its bounds, or a rate is not positive.
    """
    values = {name: own.initial for name, own in config.parameters.given().items() if own.initial is not None}
    if not values:
        return None
    medians = {name: space.priors[name].median for name in space.free_names} | dict(space.fixed)
    return space.coordinates({**space.with_offsets(medians | values), **values})


def _prior(parameter: Parameter, given: ParameterConfig) -> Prior:
    """Prior of a parameter from the user's words, completed by those of the model."""
    kind, arguments = parameter.prior
    if given.prior is not None:
        kind, arguments = given.prior.type, given.prior.model_dump(exclude={"type"})
    return make_prior(kind, arguments, given.bounds, name=parameter.name, support=parameter.support)
