"""Health rows: counters belong to the run, a name can be held once, and the table cannot overflow."""

from __future__ import annotations

import pytest

from rtvla.errors import ShmError
from rtvla.shm.health import MAX_COUNTERS, read_row
from rtvla.shm.hub import Hub


def look(hub: Hub, process: str) -> dict[str, object]:
    segment = hub.health_segment(process)
    assert segment is not None
    return read_row(segment)


def test_counters_go_on_after_a_restart(hub: Hub) -> None:
    row = hub.health_row("policy")
    row.count("chunks", 3)
    row.gauge("tick_late_us", 1.5)
    row.close()
    again = hub.health_row("policy")
    again.count("chunks")
    assert again.counter("chunks") == 4 and again.counter("never") == 0
    seen = look(hub, "policy")
    assert seen["counters"] == {"chunks": 4} and seen["gauges"] == {"tick_late_us": 1.5}
    assert seen["generation"] == 2 and seen["alive"]


def test_two_processes_of_one_name_are_impossible(hub: Hub) -> None:
    hub_row = hub.health_row("commander")
    with pytest.raises(ShmError, match="already has a writer"):
        hub.health_row("commander")
    hub_row.close()


def test_more_names_than_places_are_counted_together(hub: Hub) -> None:
    row = hub.health_row("camera_ingest")
    for at in range(MAX_COUNTERS + 20):
        row.count(f"cause_{at}")
    counters = look(hub, "camera_ingest")["counters"]
    assert isinstance(counters, dict)
    assert sum(counters.values()) == MAX_COUNTERS + 20
    assert counters["other"] == 21


def test_state_and_note_can_be_read_by_others(hub: Hub) -> None:
    row = hub.health_row("monitor")
    row.state("ready")
    row.note("SCHED_FIFO 60: REFUSED (no right)")
    row.beat()
    seen = look(hub, "monitor")
    assert (seen["state"], seen["beats"]) == ("ready", 1)
    assert "REFUSED" in str(seen["note"])
