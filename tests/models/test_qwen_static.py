"""The static encoder held against the plain transformers call. Tolerances: float32 sums in another order."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_qwen_input import picture
from torch.nn import functional

from rtvla.errors import CheckpointError
from rtvla.models import qwen_input
from rtvla.models.qwen_approximate import deviation
from rtvla.models.qwen_pixels import Resize
from rtvla.models.qwen_static import Layout, StaticQwen, lay_out
from rtvla.models.qwen_vision import window_groups
from rtvla.models.qwen_vl import Backbone, VLEncoder
from rtvla.schema import VIEWS

SIZES = [(112, 168), (333, 517), (56, 480)]
TASKS = ["eye", "white circle", ""]


def encoder_of(encoder: VLEncoder, *, size: tuple[int, int], views: int, sequence: str, task: str = "eye") -> VLEncoder:
    """The weights of `encoder` with another spec."""
    height, width = size
    spec = replace(
        encoder.spec, image_height=height, image_width=width, views=VIEWS[:views], vl_sequence=sequence, dtype="float32"
    )
    return VLEncoder(spec, Backbone(encoder._model, encoder._tokenizer), task)


def pictures(size: tuple[int, int], views: int) -> list[np.ndarray]:
    return [picture(*size, seed=view) for view in range(views)]


def module_of(encoder: VLEncoder, frames: list[np.ndarray], *, resizes: bool) -> tuple[StaticQwen, torch.Tensor]:
    """The static module for these frames, and the frames as it takes them: whole, or resized by Pillow already."""
    spec, (height, width, _) = encoder.spec, frames[0].shape
    stages, grid = qwen_input.resize_stages(height, width, spec), qwen_input.grid_of(height, width, spec)
    per_sequence = len(frames) if spec.vl_sequence == "joint" else 1
    layout = layout_of(encoder, grid, per_sequence)
    given = frames if resizes else [qwen_input.resize(frame, spec) for frame in frames]
    size = (height, width) if resizes else stages[-1]
    with torch.inference_mode():
        module = StaticQwen(
            encoder._model,
            layout,
            len(frames) // per_sequence,
            size,
            stages if resizes else (),
        )
    return module, torch.from_numpy(np.stack(given))


def layout_of(encoder: VLEncoder, grid: tuple[int, int], pictures: int) -> Layout:
    ids = qwen_input.token_ids(encoder._tokenize, encoder.prompt, [grid] * pictures)
    return lay_out(ids, grid, encoder._model.config.image_token_id)


def plain_feature(encoder: VLEncoder, frames: list[np.ndarray]) -> np.ndarray:
    sequences = [frames] if encoder.spec.vl_sequence == "joint" else [[frame] for frame in frames]
    return encoder.token_states(sequences).float().mean(1).numpy()


@pytest.mark.parametrize("views", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("sequence", ["per_view", "joint"])
@pytest.mark.parametrize(("size", "task"), [*zip(SIZES, TASKS, strict=True)])
def test_states_and_features_equal_the_plain_call(
    encoder: VLEncoder, size: tuple[int, int], task: str, sequence: str, views: int
) -> None:
    other = encoder_of(encoder, size=size, views=views, sequence=sequence, task=task)
    frames = pictures(size, views)
    module, given = module_of(other, frames, resizes=False)
    expected = other.token_states([frames] if sequence == "joint" else [[frame] for frame in frames])
    with torch.inference_mode():
        after = module.states(given)
        states = torch.cat([module.prefix.states.expand(len(after), -1, -1), after], 1)
    assert states.shape == expected.shape
    torch.testing.assert_close(states, expected, atol=5e-5, rtol=0)
    feature = other.encode_joint(frames)[None] if sequence == "joint" else other.encode_views(frames)
    assert deviation(feature, expected.mean(1).numpy()).relative < 5e-6


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
def test_the_usual_set_equals_the_plain_call(encoder: VLEncoder, sequence: str) -> None:
    other = encoder_of(encoder, size=(360, 640), views=5, sequence=sequence, task="the eye trocar, slowly")
    frames = pictures((360, 640), 5)
    feature = other.encode_joint(frames)[None] if sequence == "joint" else other.encode_views(frames)
    assert deviation(feature, plain_feature(other, frames)).relative < 5e-6


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
def test_in_bfloat16_the_feature_is_as_near_as_its_rounding(encoder: VLEncoder, sequence: str) -> None:
    spec = replace(encoder.spec, dtype="bfloat16", vl_sequence=sequence)
    low = VLEncoder(spec, Backbone(copy.deepcopy(encoder._model).bfloat16(), encoder._tokenizer), "eye")
    frames = pictures((108, 192), 5)
    feature = low.encode_joint(frames)[None] if sequence == "joint" else low.encode_views(frames)
    found = deviation(feature, plain_feature(low, frames))
    assert 0 < found.relative < 1e-2 and found.angle < 2e-5


@contextmanager
def counted_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """The shapes of the queries of all attention calls."""
    shapes: list[torch.Size] = []
    real = functional.scaled_dot_product_attention

    def attention(query: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        shapes.append(query.shape)
        return real(query, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", attention)
        yield shapes


def test_windows_of_one_size_are_one_attention_call(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 616x336, 5 views: 90 windows in two sizes. transformers calls the attention for each of them."""
    groups, order = window_groups((24, 44), 5, 4)
    assert groups == [(64, 15), (32, 3)] and sorted(order.tolist()) == list(range(5 * 264))
    assert [size for size, _ in window_groups((26, 46), 1, 4)[0]] == [64, 48, 16, 12]
    other = encoder_of(encoder, size=(360, 640), views=5, sequence="per_view")
    module, given = module_of(other, pictures((360, 640), 5), resizes=False)
    with torch.inference_mode(), counted_attention(monkeypatch) as shapes:
        module(given)
    assert [shape[0] for shape in shapes] == [75, 15, 5, 5, 5], "one layer of windows, one of whole views, two of text"


def test_text_before_the_first_picture_is_computed_once(encoder: VLEncoder) -> None:
    other = encoder_of(encoder, size=(112, 168), views=1, sequence="per_view")
    module, given = module_of(other, pictures((112, 168), 1), resizes=False)
    tokens: list[int] = []
    hook = module.language.register_forward_pre_hook(lambda _module, args: tokens.append(args[0].shape[1]))
    with torch.inference_mode():
        module(given)
    hook.remove()
    prefix, length = module.prefix.states.shape[1], len(layout_of(other, (8, 12), 1).ids)
    assert prefix > 10 and tokens == [length - prefix]


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
def test_frames_to_feature_is_one_graph_that_resizes_too(encoder: VLEncoder, sequence: str) -> None:
    """As on a GPU. In float32 a few values of a million are one grey level off."""
    other = encoder_of(encoder, size=(100, 150), views=2, sequence=sequence)
    frames = pictures((100, 150), 2)
    module, given = module_of(other, frames, resizes=True)
    whole = torch.compile(module, fullgraph=True, dynamic=False, backend="eager")
    assert deviation(whole(given).numpy(), plain_feature(other, frames)).relative < 1e-4
    torch._dynamo.reset()


def test_the_graph_can_be_exported(encoder: VLEncoder) -> None:
    other = encoder_of(encoder, size=(112, 168), views=1, sequence="per_view")
    frames = pictures((112, 168), 1)
    module, given = module_of(other, frames, resizes=True)
    with torch.no_grad():
        exported = torch.export.export(module, (given.clone(),)).module()
        assert deviation(exported(given).numpy(), plain_feature(other, frames)).relative < 5e-6


def test_nothing_in_it_waits_for_a_value(encoder: VLEncoder) -> None:
    """On the meta device there are shapes and no values: any .item(), and any decision on data, would fail. That is
    what a CUDA graph needs."""
    other = encoder_of(encoder, size=(100, 150), views=3, sequence="per_view")
    module, given = module_of(other, pictures((100, 150), 3), resizes=True)
    with torch.inference_mode():
        shapes_only = copy.deepcopy(module).to("meta")
        assert shapes_only(given.to("meta")).shape == (3, encoder.spec.vl_dim)


@pytest.mark.parametrize("sequence", ["per_view", "joint"])
def test_everything_in_it_is_where_the_model_is(encoder: VLEncoder, sequence: str) -> None:
    """Regression: the matrices for resizing stayed on the CPU, which only a GPU would have noticed."""
    backbone = Backbone(copy.deepcopy(encoder._model).to("meta"), encoder._tokenizer)
    other = VLEncoder(replace(encoder.spec, vl_sequence=sequence), backbone, "eye", "meta")
    module, _given = module_of(other, pictures((100, 150), 5), resizes=True)
    assert {tensor.device.type for tensor in [*module.buffers(), *module.parameters()]} == {"meta"}
    if sequence == "joint":
        stream = other.stream(100, 150)
        for at, frame in enumerate(pictures((100, 150), 5)):
            stream.put(at, other.tensor([frame]))
        assert stream.prefilled == 5


@pytest.mark.parametrize("size", [(360, 640), (333, 517), (40, 200), (112, 168)])
@pytest.mark.parametrize("rule", ["origin", "hub"])
def test_resizing_by_matrices_is_that_of_pillow(encoder: VLEncoder, size: tuple[int, int], rule: str) -> None:
    spec, frame = replace(encoder.spec, image_rule=rule, image_height=360, image_width=640), picture(*size)
    stages = qwen_input.resize_stages(*size, spec)
    expected = qwen_input.resize(frame, spec).astype(int)
    exact, fast = (
        Resize(size, stages, dtype)(torch.from_numpy(frame)[None])[0].permute(1, 2, 0).numpy().astype(int)
        for dtype in (torch.float64, torch.float32)
    )
    np.testing.assert_array_equal(exact, expected)
    assert np.abs(fast - expected).max() <= 1 and np.mean(fast != expected) < 2e-4


def test_on_a_cpu_each_frame_is_resized_once_and_by_pillow(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """No processor class has a part in an encode."""
    seen = []
    real = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *args: seen.append(args[0]) or real(self, *args))
    monkeypatch.setattr("transformers.image_processing_base.ImageProcessingMixin.__init__", None)
    encoder.encode_views(pictures((360, 640), 2))
    rows, columns = qwen_input.resize_stages(360, 640, encoder.spec)[-1]
    assert seen == [(644, 364), (columns, rows)] * 2


def test_views_of_different_sizes_in_a_joint_set_are_encoded_by_the_plain_call(joint_encoder: VLEncoder) -> None:
    frames = [*pictures((108, 192), 4), picture(60, 192)]
    np.testing.assert_array_equal(joint_encoder.encode_joint(frames), plain_feature(joint_encoder, frames)[0])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_stream_gives_the_feature_of_the_whole_set_whatever_the_order(encoder: VLEncoder, order: list[int]) -> None:
    joint = encoder_of(encoder, size=(112, 168), views=3, sequence="joint")
    frames, stream = pictures((112, 168), 3), joint.stream(112, 168)
    for at in order:
        assert stream.feature() is None
        stream.put(at, joint.tensor([frames[at]]))
    feature = stream.feature()
    assert feature is not None and stream.prefilled == 3
    assert deviation(feature, joint.encode_joint(frames)).relative < 5e-6


def test_after_the_last_view_of_a_set_one_segment_is_left(encoder: VLEncoder) -> None:
    joint = encoder_of(encoder, size=(112, 168), views=5, sequence="joint")
    frames, stream = pictures((112, 168), 5), joint.stream(112, 168)
    for done, frame in enumerate(frames):
        assert stream.prefilled == done
        stream.put(done, joint.tensor([frame]))
    assert stream.feature() is not None and stream.prefilled == 5


@pytest.mark.parametrize("again", [0, 2, 4])
def test_a_newer_frame_of_a_view_renews_it_and_what_follows(encoder: VLEncoder, again: int) -> None:
    joint = encoder_of(encoder, size=(112, 168), views=5, sequence="joint")
    frames, stream = pictures((112, 168), 5), joint.stream(112, 168)
    for at, frame in enumerate(frames):
        stream.put(at, joint.tensor([frame]))
    before = stream.prefilled
    frames[again] = picture(112, 168, seed=99)
    stream.put(again, joint.tensor([frames[again]]))
    feature = stream.feature()
    assert feature is not None and stream.prefilled - before == 5 - again
    assert deviation(feature, joint.encode_joint(frames)).relative < 5e-6


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_new_set_needs_every_view_again_and_repeats_nothing(encoder: VLEncoder, order: list[int]) -> None:
    """Regression: a view that came before the first one was computed behind the first one of the last set, in vain."""
    joint = encoder_of(encoder, size=(112, 168), views=3, sequence="joint")
    stream = joint.stream(112, 168)
    for at, frame in enumerate(pictures((112, 168), 3)):
        stream.put(at, joint.tensor([frame]))
    stream.begin()
    before = stream.prefilled
    frames = [picture(112, 168, seed=7 + at) for at in range(3)]
    for at in order:
        assert stream.feature() is None
        stream.put(at, joint.tensor([frames[at]]))
    feature = stream.feature()
    assert feature is not None and stream.prefilled - before == 3
    assert deviation(feature, joint.encode_joint(frames)).relative < 5e-6


def test_what_a_check_has_drawn_is_no_part_of_the_first_set(encoder: VLEncoder) -> None:
    """Regression: the first feature after a start was of one camera's frame and four drawn ones."""
    joint = encoder_of(encoder, size=(112, 168), views=3, sequence="joint")
    joint.prepare("eager")
    joint.check()
    stream = joint.stream(112, 168)
    for at, frame in enumerate(pictures((112, 168), 3)):
        assert stream.feature() is None
        stream.put(at, joint.tensor([frame]))
    assert stream.feature() is not None


def test_pooling_over_views_is_that_of_the_spec(encoder: VLEncoder) -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 64), np.float32)
    largest = VLEncoder(replace(encoder.spec, view_pooling="max"), Backbone(encoder._model, encoder._tokenizer), "eye")
    np.testing.assert_array_equal(largest.pool(vectors), vectors.max(0))
    np.testing.assert_allclose(encoder.pool(vectors), vectors.mean(0), atol=1e-6)


def test_a_sliding_window_is_refused(encoder: VLEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder._model.language_model.config, "use_sliding_window", True)
    with pytest.raises(CheckpointError, match="use_sliding_window"):
        encoder.with_task("other").encode_view(picture(108, 192))


def test_every_layout_has_its_pictures_where_the_tokens_are(encoder: VLEncoder) -> None:
    for grid, count in itertools.product([(8, 12), (6, 6)], [1, 3]):
        layout, tokens = layout_of(encoder, grid, count), grid[0] * grid[1] // 4
        image_id = encoder._model.config.image_token_id
        for begin, end in layout.spans:
            assert set(layout.ids[begin : begin + tokens]) == {image_id}
            assert image_id not in layout.ids[begin + tokens : end]
        assert layout.spans[0][0] == layout.begins[0] and layout.spans[-1][1] == len(layout.ids)
