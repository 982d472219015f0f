from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from record import make
from rtvla.record.images import ViewFolder, safe_name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_bytes_as_received_under_camera_and_time(tmp_path: Path) -> None:
    view, jpeg = ViewFolder(tmp_path, "View1"), bytes(range(256)) * 3
    assert view.save(make.frame(5, sampled_s=1762300000.12345, jpeg=jpeg))
    assert names(tmp_path / "View1") == ["ZED_41182735_left_1762300000.123.jpg"]
    assert (tmp_path / "View1" / "ZED_41182735_left_1762300000.123.jpg").read_bytes() == jpeg


def test_the_same_frame_twice_is_one_file(tmp_path: Path) -> None:
    """Also where its name was taken: a restarted recorder gives the last frames again."""
    frames = [make.frame(index, jpeg=bytes([index])) for index in (5, 6, 6)]
    for opened in range(2):
        view = ViewFolder(tmp_path, "View1")
        assert view.recorded == 2 * opened
        for frame in frames:
            view.save(frame)
        assert view.recorded == 2
    assert len(names(tmp_path / "View1")) == 2


def test_a_taken_name_is_never_overwritten(tmp_path: Path) -> None:
    view = ViewFolder(tmp_path, "View2")
    for index, jpeg in ((5, b"a"), (6, b"b"), (6, b"c")):
        view.save(make.frame(index, b"oak", 1.0, jpeg))
    stored = {path.name: path.read_bytes() for path in (tmp_path / "View2").iterdir()}
    assert stored == {"oak_1.000.jpg": b"a", "oak_1.000_6.jpg": b"b", "oak_1.000_6_2.jpg": b"c"}


@pytest.mark.parametrize(
    "camera",
    [b"../../evil", b"/etc/evil", b"..", b".", b"", b"a/b", b"..\\evil", b".hidden", b"a\nb", b"\xff\xfe/x", b"~"],
)
def test_a_camera_name_cannot_leave_the_folder(tmp_path: Path, camera: bytes) -> None:
    view = ViewFolder(tmp_path / "images", "View1")
    assert view.save(make.frame(1, camera))
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.parent == tmp_path / "images" / "View1" and not path.name.startswith(".")
    assert path.suffix == ".jpg"


@given(st.binary(max_size=48))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_safe_name_has_no_separator_and_is_not_empty(camera: bytes) -> None:
    name = safe_name(camera)
    assert name and "/" not in name and "\0" not in name and not name.startswith(".") and name.isprintable()


def test_a_frame_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    view = ViewFolder(tmp_path, "View1")
    assert not view.save(make.frame(1, sampled_s=1e300))  # a name of 300 characters
    assert (view.write_failed, view.recorded) == (1, 0) and "View1" in view.error
    assert view.save(make.frame(2)) and view.error == ""


def test_an_unknown_view_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="View5"):
        ViewFolder(tmp_path, "../View1")


def test_what_a_kill_leaves_is_replaced_and_removed(tmp_path: Path) -> None:
    view = ViewFolder(tmp_path, "View1")
    (tmp_path / "View1" / ".incoming.tmp").write_bytes(b"half a picture that is longer than the next one")
    view.save(make.frame(1, b"oak", 1.0, b"whole"))
    assert (tmp_path / "View1" / "oak_1.000.jpg").read_bytes() == b"whole"
    (tmp_path / "View1" / ".incoming.tmp").write_bytes(b"half")
    view.close()
    assert names(tmp_path / "View1") == ["oak_1.000.jpg"]
