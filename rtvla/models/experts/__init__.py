"""Action experts, in normalised units: each has loss(condition, actions, generator), sample(condition, generator)."""

from rtvla.models.experts.flow_matching import FlowMatchingExpert
from rtvla.models.experts.regression import RegressionExpert

EXPERTS: dict[str, type[FlowMatchingExpert] | type[RegressionExpert]] = {
    "flow_matching": FlowMatchingExpert,
    "regression": RegressionExpert,
}
