"""The run folder: one owner, status from the facts, nothing overwritten, nothing lost in a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finery.config.load import config_from_dict
from finery.config.schema import Config
from finery.errors import RunError
from finery.run import Run, append_json, find_runs, json_lines, new_run, open_run

OWNER = """
import sys, time
from pathlib import Path
from finery.run import Run
with Run(Path(sys.argv[1])).own():
    print("mine", flush=True)
    time.sleep(60)
"""


def config(tmp_path: Path) -> Config:
    values = {"model": str(tmp_path), "data": str(tmp_path / "rows.jsonl"), "output": str(tmp_path / "run")}
    return config_from_dict(values, files_must_exist=False)


def make(tmp_path: Path) -> Run:
    with new_run(tmp_path / "run", config(tmp_path)) as run:
        run.event("start", step=0, steps=5)
    return run


def test_a_run_remembers_its_settings(tmp_path: Path) -> None:
    make(tmp_path)
    assert open_run(tmp_path / "run").config == config(tmp_path)
    assert [run.folder.name for run in find_runs(tmp_path)] == ["run"]


def test_two_processes_cannot_own_one_run(tmp_path: Path) -> None:
    run = make(tmp_path)
    with subprocess.Popen([sys.executable, "-c", OWNER, str(run.folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        assert run.is_owned() and run.status().state == "running"
        with pytest.raises(RunError, match="another process"), run.own():
            pass
        with pytest.raises(RunError, match="another process"), new_run(run.folder, config(tmp_path)):
            pass
        other.kill()
        other.wait()
    assert not run.is_owned()
    with run.own():
        assert run.is_owned()


def test_status_comes_from_the_events(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.status().state == "killed"  # started, not running, no word about its end
    run.event("step", step=2, steps=5, loss=1.0)
    run.event("stop", step=2, steps=5, why="SIGTERM")
    assert (run.status().state, run.status().step) == ("stopped", 2)
    run.event("resume", step=1, steps=5)
    assert (run.status().state, run.status().step) == ("killed", 1)
    run.event("error", what="no space left")
    assert (run.status().state, run.status().detail) == ("failed", "no space left")


def test_a_resume_takes_back_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    run = make(tmp_path)
    for step in (1, 2, 3):
        run.event("step", step=step, loss=float(step))
    run.event("resume", step=1)
    run.event("step", step=2, loss=20.0)
    run.event("resume", step=2)
    run.event("step", step=3, loss=30.0)
    assert [(e["step"], e["loss"]) for e in run.events() if e["event"] == "step"] == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_a_line_cut_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_json(path, {"event": "a"})
    with open(path, "a") as file:
        file.write('{"event": "b", "st')
    append_json(path, {"event": "c"})
    assert [event["event"] for event in json_lines(path)] == ["a", "c"]


def test_a_finished_or_saved_run_is_not_overwritten(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.checkpoint_folder(3).mkdir(parents=True)
    (run.checkpoint_folder(3) / "manifest.json").write_text("{}")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as error, new_run(run.folder, config(tmp_path)):
        pass
    assert str(run.folder) in str(error.value) and "finery resume" in str(error.value) and "`output`" in str(error.value)
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    run.final_folder.mkdir()
    (run.final_folder / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match="finished run"), new_run(run.folder, config(tmp_path)):
        pass


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="not a run"), new_run(tmp_path / "run", config(tmp_path)):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        open_run(tmp_path / "nothing")
    with pytest.raises(RunError, match="not a run"):
        open_run(tmp_path)
