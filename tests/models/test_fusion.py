from __future__ import annotations

import pytest
import torch
from small_models import small_spec

from rtvla.models.fusion import FUSIONS, CrossAttentionFusion, Fusion, age_numbers

WIDTHS = {"vl": 40, "sensor": 32, "robot": 20}
THREE = ("concat", "cross_attention", "gated")


def made(fusion: str, **changes: object) -> Fusion:
    torch.manual_seed(0)
    return FUSIONS[fusion](small_spec(fusion=fusion, **changes)).double()


def features(*, sensor: bool = True, robot: bool = True) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    used = {"vl": True, "sensor": sensor, "robot": robot}
    made = {name: torch.randn(2, WIDTHS[name] * used[name], generator=draw).double() for name in WIDTHS}
    return {"vl": made["vl"], "vl_age_s": torch.tensor([0.1, 0.5]).double(), **made}


@torch.no_grad()
@pytest.mark.parametrize("fusion", THREE)
def test_every_modality_moves_the_condition(fusion: str) -> None:
    """Regression: with attention over the one VL token, sensor and robot changed the condition by exactly nothing."""
    fuse, given = made(fusion), features()
    before = fuse(**given)
    assert before.shape == (2, 28)
    for name in given:
        moved = (fuse(**{**given, name: given[name].flip(0)}) - before).abs().max()
        assert moved > 1e-3, name


@torch.no_grad()
@pytest.mark.parametrize("fusion", THREE)
def test_a_disabled_modality_has_no_weights(fusion: str) -> None:
    fuse = made(fusion, sensor_encoder="none")
    assert fuse(**features(sensor=False)).shape == (2, 28)
    assert len(fuse.norms) == 2
    with pytest.raises((ValueError, RuntimeError)):
        fuse(**features())  # no weights to put it on


@torch.no_grad()
def test_none_is_the_vl_feature_and_its_age() -> None:
    fuse, given = made("none", sensor_encoder="none", robot_encoder="none"), features(sensor=False, robot=False)
    before = fuse(**given)
    assert not torch.allclose(fuse(**{**given, "vl": given["vl"].flip(0)}), before)
    assert not torch.allclose(fuse(**{**given, "vl_age_s": given["vl_age_s"].flip(0)}), before)


@torch.no_grad()
def test_attention_shares_its_weight_out_by_content() -> None:
    """One half of the features could otherwise be a constant mixture, and attention a detour to `concat`."""
    fuse, given = made("cross_attention"), features()
    assert isinstance(fuse, CrossAttentionFusion)
    keys = fuse.key(fuse.norm(fuse.tokens(**given))).view(2, 3, fuse.heads, -1)
    weights = torch.einsum("bmhd,hd->bhm", keys, fuse.query[0, :, 0]).softmax(-1)
    assert (weights[0] - weights[1]).abs().max() > 1e-3
    assert weights.max() < 1


@torch.no_grad()
def test_gates_depend_on_all_modalities() -> None:
    fuse, given = made("gated"), features()
    tokens = fuse.tokens(**given)
    gates = fuse.gate(tokens.flatten(1)).sigmoid()
    other = fuse.gate(fuse.tokens(**{**given, "robot": given["robot"].flip(0)}).flatten(1)).sigmoid()
    assert gates.shape == (2, 3 * 28) and ((gates - other).abs().amax(0) > 1e-6).all()


@pytest.mark.parametrize("age_s", [0.0, 0.05, 1.0, 60.0, 1e6, float("inf")])
def test_age_is_bounded(age_s: float) -> None:
    numbers = age_numbers(torch.tensor([age_s]))
    assert numbers.shape == (1, 2) and (numbers >= 0).all() and (numbers <= 1).all()


def test_ages_are_told_apart_where_a_robot_uses_them() -> None:
    ages = torch.tensor([0.1, 0.3, 0.6, 1.5, 5.0, 50.0])
    assert (age_numbers(ages).diff(dim=0).abs().amax(1) > 0.02).all()
    assert torch.equal(age_numbers(torch.tensor([60.0])), age_numbers(torch.tensor([600.0])))


def test_the_age_is_no_input_unless_the_spec_asks_for_it() -> None:
    for fusion in THREE:
        fuse, given = made(fusion, vl_age_input=False), features()
        assert torch.equal(fuse(**given), fuse(**{**given, "vl_age_s": given["vl_age_s"] * 9}))
