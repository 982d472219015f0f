"""What a spec must fulfil: each rule refuses by name, with the value and what would do."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from rtvla import schema
from rtvla.errors import CheckpointError

if TYPE_CHECKING:
    from rtvla.models.spec import ModelSpec

FORMAT_VERSION = 2
NORM_GROUPS = 8  # of the convolution stages; every channel count must be a multiple
FORCE_SHARE = 4  # of a force-aware sensor feature, one part in so many is the force's
FORCE_STAGES = (64, 64)  # channels of its branch: one input needs no more; 65 samples become 17

# Values that the rest of rtvla is built on: a model trained on others cannot be run by changing this file.
_FIXED = {
    "format_version": FORMAT_VERSION,
    "action_dim": schema.ACTION_DIM,
    "step_ms": schema.STEP_NS // 1_000_000,
    "sensor_hz": schema.SENSOR_HZ,
    "sensor_channels": schema.SENSOR_CHANNELS,
    "robot_hz": schema.ROBOT_HZ,
    "robot_channels": len(schema.ROBOT_CHANNEL_NAMES),
}
_CHOICES = {
    "action_frame": ("delta_pose_wrf_mm_deg",),
    "normalisation": ("mean_std",),
    "sensor_encoder": ("plain", "force_aware", "none"),
    "sensor_order": ("force_first", "force_last"),
    "sensor_resample": ("linear", "nearest", "none"),
    "robot_encoder": ("transformer", "none"),
    "fusion": ("concat", "cross_attention", "gated", "none"),
    "expert": ("flow_matching", "regression", "diffusion"),
    "flow_solver": ("euler", "rk4"),
    "diffusion_sampler": ("ddim", "ddpm"),
    "dtype": ("float32", "bfloat16"),  # no float16: the vision tower of Qwen2.5-VL-3B overflows in it
    "vl_sequence": ("per_view", "joint"),
    "view_pooling": ("mean", "max"),
    "image_rule": ("origin", "hub"),
}
SAMPLING = {"flow_steps": "flow_matching", "diffusion_steps": "diffusion"}  # may be set at run time; whose it is
_AT_MOST = {"horizon": schema.MAX_HORIZON, "vl_dim": schema.MAX_VL_DIM}
_HEADS = {"robot_hidden": "robot_heads", "expert_hidden": "expert_heads"}


def check(spec: ModelSpec) -> None:
    for name, value in _FIXED.items():
        if getattr(spec, name) != value:
            raise CheckpointError(f"spec {name} = {getattr(spec, name)}: this rtvla runs models with {value} only")
    for name, choices in _CHOICES.items():
        if getattr(spec, name) not in choices:
            raise CheckpointError(f'spec {name} = "{getattr(spec, name)}": must be one of {", ".join(choices)}')
    for name, most in _AT_MOST.items():
        if getattr(spec, name) > most:
            raise CheckpointError(f"spec {name} = {getattr(spec, name)}: shared memory has room for {most}")
    if spec.origin is None:  # an imported model is as it is; its parts check themselves when they are built
        _check_sizes(spec)
        _check_own(spec)
    _check_vl(spec)


def _check_sizes(spec: ModelSpec) -> None:
    if not spec.sensor_stages or any(channels % NORM_GROUPS for channels in spec.sensor_stages):
        raise CheckpointError(f"spec sensor_stages = {spec.sensor_stages}: needs multiples of {NORM_GROUPS}")
    if spec.sensor_stages[-1] % spec.sensor_heads:
        raise CheckpointError(f"spec sensor_heads = {spec.sensor_heads}: must divide {spec.sensor_stages[-1]}")
    for width, heads in _HEADS.items():
        if getattr(spec, width) % getattr(spec, heads):
            raise CheckpointError(
                f"spec {heads} = {getattr(spec, heads)}: must divide {width} = {getattr(spec, width)}"
            )
    if spec.expert_hidden % 2:
        raise CheckpointError(f"spec expert_hidden = {spec.expert_hidden}: must be even (sine and cosine halves)")


def _check_own(spec: ModelSpec) -> None:
    """What a model of ours must fulfil so that each of its inputs and each of its weights has an effect."""
    if spec.sensor_order != "force_first":
        raise CheckpointError(f'spec sensor_order = "{spec.sensor_order}": a new model is trained force_first')
    extra = [name for name in ("sensor", "robot") if name in spec.feature_widths]
    if spec.fusion == "none" and extra:
        raise CheckpointError(
            f'spec fusion = "none" looks at the VL feature alone: set {" and ".join(f"{n}_encoder" for n in extra)} '
            'to "none", or choose another fusion'
        )
    if spec.fusion in ("cross_attention", "gated") and not extra:
        raise CheckpointError(
            f'spec fusion = "{spec.fusion}" weighs modalities against each other and there is the VL feature alone: '
            'set it to "none", or enable an encoder'
        )
    shortest = {"horizon": 2, "robot_window": 2, "sensor_window": 2 ** len(spec.sensor_stages) + 1}
    for name, least in shortest.items():
        if getattr(spec, name) < least:  # attention over a single step is none
            raise CheckpointError(f"spec {name} = {getattr(spec, name)}: must be at least {least}")
    if spec.sensor_encoder == "force_aware":
        if FORCE_STAGES[-1] % spec.sensor_heads:
            raise CheckpointError(f"spec sensor_heads = {spec.sensor_heads}: must divide {FORCE_STAGES[-1]}")
        if spec.sensor_dim % FORCE_SHARE or spec.sensor_dim < 4 * FORCE_SHARE:
            raise CheckpointError(
                f"spec sensor_dim = {spec.sensor_dim}: must be a multiple of {FORCE_SHARE}, at least {4 * FORCE_SHARE}"
            )
    if spec.diffusion_steps > spec.diffusion_timesteps:
        raise CheckpointError(
            f"spec diffusion_steps = {spec.diffusion_steps}: must be at most diffusion_timesteps = "
            f"{spec.diffusion_timesteps}"
        )


def _check_vl(spec: ModelSpec) -> None:
    unknown = [view for view in spec.views if view not in schema.VIEWS]
    if unknown or not spec.views or len(set(spec.views)) != len(spec.views):
        raise CheckpointError(f"spec views = {spec.views}: name each of {', '.join(schema.VIEWS)} at most once")
    if spec.vl_backbone.startswith((".", "/")) or spec.vl_backbone.count("/") > 1 or not spec.vl_backbone:
        raise CheckpointError(
            f'spec vl_backbone = "{spec.vl_backbone}": must be a folder beside spec.json (one plain name, '
            "which may be a symbolic link) or a hub name (organisation/model)"
        )
    pinned = len(spec.vl_fingerprint) == 64 and set(spec.vl_fingerprint) <= set(string.hexdigits.lower())
    if not pinned and not (spec.vl_fingerprint == "" and spec.on_hub):
        raise CheckpointError(
            f'spec vl_fingerprint = "{spec.vl_fingerprint}": must be the 64 hex digits that '
            "backbone.fingerprint_backbone gives for the backbone"
        )
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(spec.prompt) if name is not None}
    except ValueError as error:
        raise CheckpointError(f'spec prompt = "{spec.prompt}": {error}') from None
    if not names <= {"task"}:
        raise CheckpointError(f'spec prompt = "{spec.prompt}": may use {{task}} and no other field')
