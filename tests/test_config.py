"""Settings: defaults, file, overrides; every mistake is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtvla.config import CONFIG_FOLDER, Config, namespace
from rtvla.config_sections import Network
from rtvla.errors import ConfigError
from rtvla.procs.table import CORE_PLANS, PROCESSES, check, cores_of
from rtvla.streams import STREAMS


def test_default_toml_says_what_the_code_says() -> None:
    assert Config.load("default") == Config()


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    check(Config.load(path))


def test_overrides_come_after_the_file() -> None:
    cfg = Config.load("sim", ["policy.rate_hz=20", 'vl_encoder.task_name="Red point"', "realtime.cores.policy=[0]"])
    assert (cfg.policy.rate_hz, cfg.vl_encoder.task_name, cfg.realtime.cores["policy"]) == (20.0, "Red point", (0,))
    assert cfg.commander.auto_start


def test_a_word_that_is_not_toml_is_taken_as_text() -> None:
    assert Config.load(None, ["vl_encoder.task_name=Blue point"]).vl_encoder.task_name == "Blue point"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("polcy.rate_hz=10", 'did you mean "policy"'),
        ("policy.rate_hs=10", 'did you mean "policy.rate_hz"'),
        ("policy.rate_hz=fast", "must be float"),
        ("commander.auto_start=1", "must be bool"),
        ("policy.flow_steps=2.5", "must be int"),
        ("network.sensor_port=70000", "network.sensor_port = 70000"),
        ("guard.workspace_min_mm=[1,2]", "needs 3"),
        ("guard.workspace_min_mm=[1,2,3]", "both or neither"),
        ("guard.joint_min_deg=[1,2,3,4,5,6]", "both or neither"),
        ("guard.keep_out_mm=[1,2,3,4,5]", "six a box"),
        ("guard.keep_out_mm=[1,2,3,4,5,3]", "is not below"),
        ("guard.on_force=flee", "hold or retract"),
        ("guard.on_force=retract", "needs guard.retract_mm"),
        ('guard.reject=["force"]', "step, velocity, acceleration, jerk"),
        ("commander.max_step_mm=0.05", 'it is now "guard.max_step_mm"'),
        ("commander.mode=jump", "switch, blend, ensemble"),
        ("commander.rate_hz=5", "from 10 to 100"),
        ("commander.rate_hz=200", "from 10 to 100"),
        ("degrade.robot.at_gone=slow", "end in hold or latch"),
        ("degrade.view.at_late=hold", "must not get better"),
        ("degrade.view.at_stale=stop", "stop is no action"),
        ("degrade.views.late_ms=3", 'did you mean "degrade.view"'),
        ("policy.model_type=difusion", "flow_matching, regression or diffusion"),
        ("policy.diffusion_steps=1001", "policy.diffusion_steps = 1001"),
        ("vl_encoder.reuse=0", "vl_encoder.reuse = 0"),
        ("guard.max_step_mm=nan", "finite"),
        ("guard.max_step_mm=inf", "finite"),
        ("guard.max_step_mm=5.0", "from 1e-06 to 0.1"),
        ("policy.rate_hz=0", "from 0.1"),
        ("policy.flow_steps=-3", "policy.flow_steps = -3"),
        ("stale_ms.robot=-1", "stale_ms.robot = -1"),
        ("stale_ms.robot=1e9", "stale_ms.robot = 1000000000"),
        ("monitor.period_s=0", "monitor.period_s = 0"),
        ("policy", "section.field=value"),
    ],
)
def test_mistakes_are_refused_by_name(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config.load(None, [setting])


def test_the_workspace_must_be_a_box_that_holds_the_start_pose() -> None:
    box = ["guard.workspace_min_mm=[180,-10,300]", "guard.workspace_max_mm=[200,10,320]"]
    Config.load(None, box)
    with pytest.raises(ConfigError, match="150 mm lies outside the workspace"):
        Config.load(None, [*box, "commander.start_pose_mm_deg=[150,1,309,1,91,1]"])
    with pytest.raises(ConfigError, match="is not below"):
        Config.load(None, ["guard.workspace_min_mm=[200,-10,300]", "guard.workspace_max_mm=[180,10,320]"])
    with pytest.raises(ConfigError, match="finite"):
        Config.load(None, ["guard.workspace_min_mm=[nan,nan,nan]", "guard.workspace_max_mm=[1,1,1]"])


def test_a_row_of_the_degrade_table_that_is_given_in_part_keeps_the_rest_of_its_own() -> None:
    robot = Config.load(None, ["degrade.robot.late_ms=50"]).degrade.robot
    assert (robot.late_ms, robot.at_stale, robot.decelerate_ms) == (50, "hold", 0)


def test_cores_must_exist() -> None:
    for cores in ("[]", "[4095]"):
        with pytest.raises(ConfigError, match="this host has cores"):
            check(Config.load(None, [f"realtime.cores.policy={cores}"]))


def test_a_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="default, lab, sim"):
        Config.load("nowhere.toml")


def test_names_that_only_the_tables_know_are_checked() -> None:
    with pytest.raises(ConfigError, match='did you mean "sensor_ingest"'):
        check(Config.load(None, ["realtime.cores.sensor_ingst=[0]"]))
    with pytest.raises(ConfigError, match='did you mean "vl_feature"'):
        check(Config.load(None, ["stale_ms.vl_featur=3.0"]))


def test_the_digest_names_the_effective_config() -> None:
    assert Config.load("default").digest() == Config().digest() != Config.load("sim").digest()


def test_listening_never_means_all_interfaces() -> None:
    assert Network().listen_ip() == "127.0.0.1"
    assert Network(bind_ip="127.0.0.2").listen_ip() == "127.0.0.2"


@pytest.mark.parametrize("name", ["", "a/b", "../x", "x" * 65])
def test_a_namespace_cannot_leave_its_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTVLA_NAMESPACE", name)
    with pytest.raises(ConfigError, match="RTVLA_NAMESPACE"):
        namespace()


def test_every_stream_has_a_process_that_writes_it() -> None:
    assert {stream.writer for stream in STREAMS.values()} <= set(PROCESSES)


def test_every_need_is_a_process_and_the_commander_needs_the_policy() -> None:
    for process in PROCESSES.values():
        assert set(process.needs) <= set(PROCESSES)
    assert "policy" in PROCESSES["commander"].needs


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8, 16])
def test_every_process_gets_cores_that_exist(count: int) -> None:
    available = list(range(10, 10 + count))
    for process in PROCESSES.values():
        cores = cores_of(process, Config(), available)
        assert cores and set(cores) <= set(available)


def test_with_two_cores_the_encoder_is_kept_off_the_control_path() -> None:
    plan = CORE_PLANS[2]
    assert not set(plan["vl"]) & set(plan["control"] + plan["policy"] + plan["ingest"])
