"""Kept engines appear whole or not at all, are used only as they were written, and code comes with no checkpoint."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from rtvla.models.engines import cache
from rtvla.models.engines.cache import Kept, Place, keep

NAME = "openvino-float32-0123456789abcdef"


def build(folder: Path) -> None:
    (folder / "v.bin").write_bytes(b"weights")


def never(folder: Path) -> None:
    raise AssertionError("built again")


def kept_by(where: list[Path], make: object = build, holds_code: bool = False, name: str = NAME) -> Kept:
    with keep([Place(folder, 0o700) for folder in where], name, holds_code, make) as kept:  # type: ignore[arg-type]
        assert (kept.folder / "v.bin").read_bytes() == b"weights"
    return kept


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    first, second = kept_by([tmp_path / "engine"]), kept_by([tmp_path / "engine"], never)
    assert first.place == second.place == str(tmp_path / "engine" / NAME)
    assert first.build_s > 0 == second.build_s


@pytest.mark.parametrize(
    "spoil", ["a byte", "a file missing", "a file too many", "no manifest", "half a manifest", "a list"]
)
def test_what_is_not_as_it_was_written_is_built_again(tmp_path: Path, spoil: str) -> None:
    folder = kept_by([tmp_path]).folder
    {
        "a byte": lambda: (folder / "v.bin").write_bytes(b"weightz"),
        "a file missing": (folder / "v.bin").unlink,
        "a file too many": lambda: (folder / "x.bin").write_bytes(b""),
        "no manifest": (folder / "manifest.json").unlink,
        "a list": lambda: (folder / "manifest.json").write_text('["v.bin"]'),
        "half a manifest": lambda: (folder / "manifest.json").write_text('{"v.bin": "ab'),
    }[spoil]()
    assert kept_by([tmp_path]).build_s > 0
    assert kept_by([tmp_path], never).folder == folder
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_two_builders_at_once_end_with_one_whole_folder(tmp_path: Path) -> None:
    def overtaken(folder: Path) -> None:
        kept_by([tmp_path])
        build(folder)

    assert kept_by([tmp_path], overtaken).folder == tmp_path / NAME
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    kept_by([tmp_path], never)


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        kept_by([tmp_path], never)
    assert list(tmp_path.iterdir()) == []


def test_where_the_checkpoint_cannot_be_written_the_next_place_is_taken_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    read_only, cache_folder = tmp_path / "file" / "engine", tmp_path / "cache" / "rtvla" / "engine"
    with caplog.at_level(logging.WARNING):
        assert kept_by([read_only, cache_folder]).place == str(cache_folder / NAME)
    assert str(read_only) in caplog.text
    assert cache_folder.stat().st_mode & 0o777 == 0o700


def test_without_any_place_it_is_built_each_time_and_goes_away(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        kept = kept_by([tmp_path / "file" / "engine"])
        assert kept.place == "" and kept.build_s > 0 and not kept.folder.exists()


def test_code_never_comes_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (private,) = cache.places(tmp_path / "model", holds_code=True)
    assert private.folder.parent == tmp_path / "cache" / "rtvla" / "engine" and private.mode == 0o700
    assert cache.places(tmp_path / "model", holds_code=False) == [Place(tmp_path / "model" / "engine", 0o777), private]


def test_the_engine_of_one_checkpoint_does_not_remove_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: in the user's cache, where all checkpoints meet, a start threw away what others had built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for model in ("one", "other"):
        with keep(cache.places(tmp_path / model, True), f"compiled-float32-{model}", True, build) as kept:
            assert kept.build_s > 0
    with keep(cache.places(tmp_path / "one", True), "compiled-float32-one", True, never) as kept:
        assert kept.build_s == 0


def test_a_service_without_a_home_keeps_its_engine_with_the_checkpoint_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert cache.places(tmp_path, holds_code=True) == []
    assert [place.folder for place in cache.places(tmp_path, holds_code=False)] == [tmp_path / "engine"]


@pytest.mark.parametrize("open_one", ["engine/model", "engine", "."])
def test_code_is_not_taken_from_where_others_can_write(tmp_path: Path, open_one: str) -> None:
    place = tmp_path / "rtvla" / "engine" / "model"
    kept_by([place], holds_code=True)
    kept_by([place], never, holds_code=True)
    (tmp_path / "rtvla" / open_one).chmod(0o777)
    assert kept_by([place], holds_code=True).place == ""
    assert kept_by([place], never, holds_code=False).place


def test_the_engine_of_an_older_version_makes_room(tmp_path: Path) -> None:
    kept_by([tmp_path], name="openvino-float32-old")
    kept_by([tmp_path], name="openvino-bfloat16-old")
    kept_by([tmp_path])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["openvino-bfloat16-old", NAME])


def test_the_fingerprint_is_of_every_fact_and_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"checkpoint": "ab", "engine": "openvino", "openvino": "1"}
    first = cache.fingerprint(facts)
    assert first == cache.fingerprint(dict(reversed(facts.items())))
    others = [facts | {"checkpoint": "ac"}, facts | {"openvino": "2"}]
    monkeypatch.setattr(cache, "FORMAT", 2)
    found = {first, cache.fingerprint(facts), *map(cache.fingerprint, others)}
    monkeypatch.setattr(cache, "_cpu_flags", lambda: "sse2")
    assert len(found | {cache.fingerprint(facts)}) == 5


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    folder = kept_by([tmp_path]).folder
    assert list(json.loads((folder / "manifest.json").read_text())) == ["v.bin"]
