"""The measurement of a fleet measures what it says, on fleets too small to promise anything."""

import json
from pathlib import Path

from tests import fleetbench


def test_a_long_queue_is_held_against_an_empty_one(tmp_path: Path) -> None:
    report = tmp_path / "fleet.json"
    report.write_text('{"speedup": {"kept": true}}')
    words = ["--only", "depth", "--waiting", "200", "--calls", "4", "--json", str(report)]
    fleetbench.main(words)
    found = json.loads(report.read_text())
    assert found["speedup"] == {"kept": True}
    depth = found["depth"]
    names = {"submit", "retrieve", "list", "cancel", "metrics", "next job"}
    for state in ("empty", "full"):
        assert set(depth[state]) == names
        for each in depth[state].values():
            assert 0 < each["p50_ms"] <= each["p95_ms"] <= each["p100_ms"]
    assert depth["waiting"] == 200
    assert depth["holds"] == (depth["slower"] == [])


def test_every_checkpoint_is_timed(tmp_path: Path) -> None:
    tools = fleetbench.equipment(tmp_path)
    with fleetbench.saving_timed() as spent:
        fleetbench.film(tools, 1, steps=2)
        assert spent == []
        fleetbench.film(fleetbench.replace(tools, checkpoint_overhead=1.0), 2, steps=4)
        assert spent
        assert all(0 < each < 1 for each in spent)


def test_the_speed_of_a_fleet_is_its_films_by_seconds(tmp_path: Path) -> None:
    rate = fleetbench.films_per_s(tmp_path / "one", 1, 3)
    assert 0.1 < rate < 0.5  # a film waits two seconds, all in all
