"""Key names have one home."""

import re
from pathlib import Path

from worker.jobs import keys, row, scripts

ROOT = Path(keys.__file__).parents[2]


def test_only_the_keys_file_spells_the_prefix():
    prefix = re.compile(rf"(?<![a-z]){keys.PREFIX}")  # not the end of another word
    folders = [ROOT / name for name in ("service", "worker", "models")]
    files = [path for folder in folders for path in folder.rglob("*.*") if path.is_file()]
    spelled = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.suffix in (".py", ".lua") and prefix.search(path.read_text(encoding="utf-8"))
    ]
    assert spelled == ["worker/jobs/keys.py"]


def test_every_script_is_loaded_and_every_file_is_a_script():
    files = {path.stem for path in (ROOT / "worker/jobs/lua").glob("*.lua")}
    assert files == {*scripts.NAMES, *scripts.PARTS}


def test_every_key_name_of_a_script_is_defined():
    defined = keys.lua_names()
    for name in ("JOB", "EVENTS", "LIVE", "WAKE", "TENANT", "IDEMPOTENCY", "FINGERPRINT"):
        assert f"local {name} = '{keys.PREFIX}" in defined


def test_events_carry_the_same_fields_in_lua_and_python():
    start = scripts.source("page").split("local MOMENT = {")[1].split("}")[0]
    assert [word.strip().strip("'") for word in start.split(",") if word.strip()] == row.MOMENT
