"""Action experts, in normalised units: each has loss(condition, actions, generator), noise(batch, generator) with all
the random numbers of one chunk, and sample(condition, noise)."""

from rtvla.models.experts.diffusion import DiffusionExpert
from rtvla.models.experts.flow_matching import FlowMatchingExpert
from rtvla.models.experts.regression import RegressionExpert

Expert = FlowMatchingExpert | RegressionExpert | DiffusionExpert

EXPERTS: dict[str, type[FlowMatchingExpert] | type[RegressionExpert] | type[DiffusionExpert]] = {
    "flow_matching": FlowMatchingExpert,
    "regression": RegressionExpert,
    "diffusion": DiffusionExpert,
}
