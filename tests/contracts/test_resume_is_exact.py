"""Contract 3: kill -9 at a random moment and resume gives the same weights, bitwise, on a CPU."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from finery.cli import main
from finery.run import open_run
from tests.tiny import make_model, write_rows

KILLS = 10


def settings(folder: Path, **more: object) -> Path:
    """A run of 20 steps with dropout, a checkpoint every 3."""
    values = {
        "model": str(folder / "model"),
        "data": str(folder / "rows.jsonl"),
        "adapter": {"type": "lora", "rank": 4, "dropout": 0.1},
        "batch_size": 4,
        "tokens_per_pass": 64,
        "max_steps": 20,
        "epochs": 100,
        "learning_rate": 1e-3,
        "save_every": 3,
        "validation": 2,
        "output": str(folder / "run"),
        **more,
    }
    path = folder / f"{Path(str(values['output'])).name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "finery.cli", *words]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "adapter_model.safetensors")


def curve(run: Path) -> list[tuple[int, float, float]]:
    return [(e["step"], e["loss"], e["learning_rate"]) for e in open_run(run).events() if e["event"] == "step"]


def assert_same(run: Path, other: Path) -> None:
    assert curve(run) == curve(other) and len(curve(run)) == 20
    weights, others = final_weights(run), final_weights(other)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow
def test_killed_at_random_moments(folder: Path) -> None:
    """Ten kills of one run, each at another moment; then the curve and the weights are those of a run left alone."""
    assert main(["train", str(settings(folder, output=str(folder / "alone")))]) == 0
    run = folder / "run"
    moments = random.Random(7)
    kills = 0
    words = ["train", str(settings(folder))]
    while kills < KILLS:
        process = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = wait_for_event(run, process)
        time.sleep(moments.uniform(0, 0.25) if begun else 0)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        words = ["resume", str(run)] if (run / "run.yaml").exists() and open_run(run).checkpoints() else words
        if open_run(run).finished:
            break
    assert kills >= 3  # the run is short: it may be done before the tenth
    if not open_run(run).finished:
        assert main(words) == 0
    assert_same(folder / "alone", run)


def wait_for_event(run: Path, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the process has begun its loop: a kill while Python imports proves nothing."""
    events = run / "events.jsonl"
    size = events.stat().st_size if events.exists() else 0
    while process.poll() is None:
        if events.exists() and events.stat().st_size > size:
            return True
        time.sleep(0.005)
    return False


def test_a_kill_in_the_middle_and_a_resume(folder: Path) -> None:
    """The same in process: stop by request at step 7, go on, compare with a run left alone."""
    assert main(["train", str(settings(folder, output=str(folder / "alone")))]) == 0
    part = settings(folder, output=str(folder / "run"))
    kill_after = 7
    process = subprocess.Popen(command("train", str(part)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(steps_in(folder / "run")) < kill_after:
        time.sleep(0.002)
    process.kill()
    process.wait()
    run = open_run(folder / "run")
    assert run.status().state == "killed"
    assert main(["resume", str(run.folder)]) == 0
    assert run.status().state == "done"
    assert_same(folder / "alone", folder / "run")


def steps_in(run: Path) -> list[str]:
    events = run / "events.jsonl"
    return [line for line in events.read_text().splitlines() if '"event": "step"' in line] if events.exists() else []


def test_sigterm_saves_and_leaves(folder: Path) -> None:
    path = settings(folder, max_steps=4000, save_every=1000, epochs=4000)
    process = subprocess.Popen(command("train", str(path)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(steps_in(folder / "run")) < 5:
        time.sleep(0.01)
    process.terminate()
    _, told = process.communicate(timeout=60)
    run = open_run(folder / "run")
    assert process.returncode == 130
    assert run.status().state == "stopped"
    assert run.checkpoints() and int(run.checkpoints()[-1].name[5:]) == run.status().step
    assert "SIGTERM" in told and "finery resume" in told and "Traceback" not in told


def test_a_second_interrupt_leaves_at_once(folder: Path) -> None:
    path = settings(folder, max_steps=100000, save_every=5, epochs=100000)
    process = subprocess.Popen(command("train", str(path)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(steps_in(folder / "run")) < 12:
        time.sleep(0.01)
    process.send_signal(2)
    process.send_signal(2)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told
    run = open_run(folder / "run")
    assert run.status().state == "stopped" and run.checkpoints()


def test_stop_from_outside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings(folder, max_steps=100000, save_every=50000, epochs=100000)
    process = subprocess.Popen(command("train", str(path)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(steps_in(folder / "run")) < 3:
        time.sleep(0.01)
    assert main(["stop", str(folder / "run")]) == 0
    assert process.wait(timeout=60) == 130
    assert open_run(folder / "run").status().state == "stopped"
    assert "stopped at step" in capsys.readouterr().out


def test_started_again_into_a_finished_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings(folder, max_steps=2)
    assert main(["train", str(path)]) == 0
    before = {file: file.read_bytes() for file in (folder / "run").rglob("*") if file.is_file()}
    assert main(["train", str(path)]) == 2
    told = capsys.readouterr().err
    assert str(folder / "run") in told and "finery resume" in told and "`output`" in told
    assert before == {file: file.read_bytes() for file in (folder / "run").rglob("*") if file.is_file()}


def test_a_changed_setting_is_said_or_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings(folder, max_steps=4)
    assert main(["train", str(path)]) == 0
    capsys.readouterr()
    assert main(["resume", str(folder / "run"), "max_steps=6", "learning_rate=5e-3"]) == 0
    assert "learning_rate 0.001 -> 0.005" in capsys.readouterr().err
    assert [round(rate, 9) for _, _, rate in curve(folder / "run")][-2:] != [0.0, 0.0]
    assert main(["resume", str(folder / "run"), "max_steps=8", "seed=9"]) == 2
    assert "seed" in capsys.readouterr().err


def test_changed_data_and_base_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(settings(folder, max_steps=3))]) == 0
    rows = (folder / "rows.jsonl").read_text()
    write_rows(folder / "rows.jsonl", 13)
    assert main(["resume", str(folder / "run"), "max_steps=6"]) == 2
    assert "rows.jsonl" in capsys.readouterr().err
    (folder / "rows.jsonl").write_text(rows)
    make_model(folder / "model", seed=1)
    assert main(["resume", str(folder / "run"), "max_steps=6"]) == 2
    assert "base model" in capsys.readouterr().err


def test_nothing_to_resume(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["resume", str(tmp_path / "empty")]) == 2
    assert str(tmp_path / "empty") in capsys.readouterr().err
    (tmp_path / "empty" / "run.yaml").write_text(settings(folder).read_text())
    (tmp_path / "empty" / "lock").touch()
    assert main(["resume", str(tmp_path / "empty")]) == 2
    told = capsys.readouterr().err
    assert "no checkpoint" in told and str(tmp_path / "empty") in told


def test_the_newest_checkpoint_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(settings(folder, max_steps=4))]) == 0
    newest = open_run(folder / "run").checkpoints()[-1] / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    assert main(["resume", str(folder / "run"), "max_steps=6"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_events_are_json_lines(folder: Path) -> None:
    assert main(["train", str(settings(folder, max_steps=2))]) == 0
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "layout" and kinds[1] == "start" and kinds[-1] == "end"
    assert [kind for kind in kinds if kind in ("evaluate", "step")] == ["evaluate", "step", "evaluate", "step", "evaluate"]
    assert (folder / "run" / "ledger.json").exists()
