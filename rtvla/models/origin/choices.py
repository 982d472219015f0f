"""What an old file does not say about its model, and the person who imports it can."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

from rtvla.models.origin.layouts import Layout

# Choice -> the kind of expert (spec.expert) that it concerns; the others concern every model.
_CONCERNS = {
    "flow_steps": "flow_matching",
    "flow_solver": "flow_matching",
    "timesteps": "diffusion",
    "diffusion_steps": "diffusion",
    "diffusion_sampler": "diffusion",
}


@dataclass(frozen=True)
class Choices:
    """None: as the layout of the file has it. The other defaults are those of every old script and receiver."""

    window: int | None = None  # samples that the sensor encoder is fed
    sensor_length: int | None = None  # samples that it makes of them
    interpolation: str = "linear"
    heads: int = 8
    horizon: int = 8
    flow_steps: int = 10
    flow_solver: str = "euler"
    timesteps: int = 100
    diffusion_steps: int = 50
    diffusion_sampler: str = "ddim"
    prompt: str | None = None
    vl_sequence: str | None = None
    view_pooling: str = "mean"
    image_height: int = 360
    image_width: int = 640
    image_rule: str = "origin"
    vl_backbone: str = "Qwen/Qwen2.5-VL-3B-Instruct"  # a hub name or a folder
    vl_dim: int | None = None
    vl_from_file: bool = False
    lora_alpha: float = 32.0

    def filled(self, layout: Layout) -> Choices:
        """With what the layout says where nothing was chosen."""
        length = layout.sensor_length if self.sensor_length is None else self.sensor_length
        known = {"sensor_length": length, "window": length, "prompt": layout.prompt, "vl_sequence": layout.vl_sequence}
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})  # type: ignore[arg-type]

    def assumed(self, expert: str, said: Collection[str]) -> dict[str, str]:
        """Of a filled one, what went into the model without being in its file. `said`: what the file says itself."""
        return {
            name: str(value)
            for name, value in asdict(self).items()
            if value is not None and name not in said and _CONCERNS.get(name, expert) == expert
        }
