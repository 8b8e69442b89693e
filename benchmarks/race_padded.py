"""Finery against a plain padded PyTorch + peft loop: same rows, same steps, same losses; speed and memory side by side.

    python benchmarks/race_padded.py MODEL --rows 16 --repeats 3

Both train LoRA (rank 16, alpha 32, all linear layers but the head) in float32 on one thread, 4 rows a step, in file order.
The plain loop pads its 4 rows to the longest and takes the loss over all positions, as transformers does. Each contestant is a
process of its own, in turn, so a busy neighbour meets both. Counted: real tokens (no padding) per CPU second between the start
of the first step and the end of the last, and the largest resident memory. A rate on a disturbed machine is no fact by itself,
so each process also measures its matrix products, weighted by the model's own shapes, and gives its share of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "llamafactory" / "alpaca_en_demo.json"
ROWS_PER_STEP = 4
RATE = 2e-4
PACKAGES = ("torch", "transformers", "peft", "accelerate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder with a llama-like model and a chat template")
    parser.add_argument("--data", default=str(DATA), help="an Alpaca file")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contestants", default="padded,finery", help="of: " + ", ".join(CONTESTANTS))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(run(args.only, args.model, args.data, args.rows)))
        return
    names = args.contestants.split(",")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(args.repeats):
        for name in names if repeat % 2 == 0 else names[::-1]:
            results[name].append(started(name, args))
            print(f"{name:14} {show(results[name][-1])}", flush=True)
    summary = {name: summarise(runs) for name, runs in results.items()}
    print(table(summary))
    target = HERE / "results" / f"race_padded_{date.today()}_{args.rows}_rows.json"
    target.parent.mkdir(exist_ok=True)
    about = {
        "rows": args.rows,
        "rows_per_step": ROWS_PER_STEP,
        "model": Path(args.model).name,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": sys.version.split()[0],
        "processor": processor(),
    }
    target.write_text(json.dumps({**about, "summary": summary, "runs": results}, indent=1) + "\n")
    print("written to", target)


def started(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One contestant in a process of its own, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, args.model, "--data", args.data, "--rows", str(args.rows), "--only", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run(name: str, model: str, data: str, count: int) -> dict[str, Any]:
    """Train once and return the figures."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = read_rows(model, data, count)
    step = CONTESTANTS[name](model)
    before, losses = gemm_rate(model), []
    wall, cpu, seconds = time.perf_counter(), time.process_time(), []
    for start in range(0, len(rows), ROWS_PER_STEP):
        begun = time.process_time()
        losses.append(step(rows[start : start + ROWS_PER_STEP]))
        seconds.append(time.process_time() - begun)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    gemm = (before + gemm_rate(model)) / 2
    tokens = sum(len(ids) for ids, _ in rows)
    rate = tokens / cpu
    return {
        "tokens": tokens,
        "trained_tokens": sum(sum(loss) for _, loss in rows),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "step_cpu_seconds": seconds,
        "tokens_per_cpu_second": rate,
        "peak_memory_bytes": memory,
        "gemm_flops": gemm,
        "share_of_gemm": rate * flops_per_token(model, name) / gemm,
        "losses": losses,
    }


# --- the contestants: a function from 4 rows to their loss, after a step of the optimizer ----------------------------------


def padded(model_path: str) -> Any:
    """What one writes after a tutorial."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)

    def step(rows: list[tuple[list[int], list[int]]]) -> float:
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
        labels = torch.tensor(
            [[i if on else -100 for i, on in zip(ids, loss, strict=True)] + [-100] * (width - len(ids)) for ids, loss in rows]
        )
        trained = int((labels[:, 1:] != -100).sum())
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=trained, use_cache=False).loss
        return update(loss, parameters, optimizer)

    return step


def finery(model_path: str, adapter: str = "lora") -> Any:
    """Finery's policy and packing."""
    import torch

    from finery.config.schema import Config
    from finery.data.batch import to_batch
    from finery.data.pack import pack
    from finery.model.adapter import add_adapter
    from finery.model.load import load_model
    from finery.model.policy import Policy
    from finery.types import Example, Row, Sequence

    config = Config.model_validate({"model": model_path, "data": "-", "adapter": {"type": adapter}, "device": "cpu"})
    model = add_adapter(load_model(config)[0], config)
    policy = Policy(model)
    policy.train()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE if adapter == "lora" else RATE / 10, weight_decay=0.0)

    def step(rows: list[tuple[list[int], list[int]]]) -> float:
        import numpy as np

        packed = pack(
            [Row(Example(), [Sequence(np.array(ids, np.int32), np.array(loss, np.float32))], len(ids)) for ids, loss in rows]
        )
        batch = to_batch(packed)
        scores = policy(batch, ("logp", "hit"))
        return update(-(scores.logp * batch.weight).sum() / batch.weight.sum(), parameters, optimizer)

    return step


def finery_full(model_path: str) -> Any:
    """The same with every weight trained: what LoRA saves."""
    return finery(model_path, "full")


def update(loss: Any, parameters: list[Any], optimizer: Any) -> float:
    import torch

    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


CONTESTANTS = {"padded": padded, "finery": finery, "finery_full": finery_full}


# --- rows, machine, figures ------------------------------------------------------------------------------------------------


def read_rows(model: str, data: str, count: int) -> list[tuple[list[int], list[int]]]:
    """(ids, 1 where a token is trained) of the file's first rows, by the model's chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for row in json.loads(Path(data).read_text(encoding="utf-8"))[:count]:
        question = [{"role": "user", "content": "\n".join(filter(None, (row["instruction"], row.get("input"))))}]
        start = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        both = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": row["output"]}], tokenize=False)
        prompt = tokenizer(start, add_special_tokens=False)["input_ids"]
        answer = tokenizer(both[len(start) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
        rows.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
    return rows


def shapes(model: str) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many) of a llama-like model's matrices; the head last."""
    c = json.loads((Path(model) / "config.json").read_text())
    width, inner, layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    head = c.get("head_dim") or width // c["num_attention_heads"]
    queries, keys = head * c["num_attention_heads"], head * c["num_key_value_heads"]
    return [
        (width, queries, layers),
        (queries, width, layers),
        (width, keys, 2 * layers),
        (width, inner, 2 * layers),
        (inner, width, layers),
        (width, c["vocab_size"], 1),
    ]


def flops_per_token(model: str, contestant: str) -> float:
    """4 per parameter for LoRA (forward, gradient of the inputs), 6 for full; attention, adapter and padding left out."""
    return sum(i * o * n for i, o, n in shapes(model)) * (6 if contestant.endswith("full") else 4)


def gemm_rate(model: str) -> float:
    """FLOP per CPU second of `linear` on 512 rows over the model's own shapes, weighted by their parameters."""
    import torch

    work = seconds = 0.0
    for inputs, outputs, count in shapes(model):
        x, w = torch.randn(512, inputs), torch.randn(outputs, inputs)
        torch.nn.functional.linear(x, w)
        flops = 2.0 * 512 * inputs * outputs
        times, repeats = [], max(2, int(2e9 / flops))
        for _ in range(3):
            start = time.process_time()
            for _ in range(repeats):
                torch.nn.functional.linear(x, w)
            times.append((time.process_time() - start) / repeats)
        work += count * flops
        seconds += count * statistics.median(times)
    return work / seconds


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median with (smallest, largest) of each figure."""
    keys = ("tokens_per_cpu_second", "share_of_gemm", "gemm_flops", "peak_memory_bytes", "cpu_seconds", "wall_seconds")
    found = {key: [statistics.median(v), min(v), max(v)] for key in keys if (v := [run[key] for run in runs])}
    return {**found, "first_and_last_loss": [runs[0]["losses"][0], runs[0]["losses"][-1]]}


def show(run: dict[str, Any]) -> str:
    return (
        f"{run['tokens_per_cpu_second']:6.1f} real tokens / CPU s   {run['share_of_gemm']:4.0%} of "
        f"{run['gemm_flops'] / 1e9:.0f} GFLOP/s   {run['peak_memory_bytes'] / 1e6:5.0f} MB   "
        f"losses {' '.join(f'{loss:.4f}' for loss in run['losses'][:4])}"
    )


def table(summary: dict[str, dict[str, Any]]) -> str:
    """A line for each contestant, with its ratio to the first."""
    base = next(iter(summary.values()))
    lines = ["", "contestant      real tok/CPU s (min..max)      ratio  share of GEMM   peak memory   ratio"]
    for name, s in summary.items():
        speed, memory = s["tokens_per_cpu_second"], s["peak_memory_bytes"]
        lines.append(
            f"{name:14} {speed[0]:7.1f} ({speed[1]:.1f}..{speed[2]:.1f})".ljust(45)
            + f" {speed[0] / base['tokens_per_cpu_second'][0]:5.2f}  {s['share_of_gemm'][0]:12.0%}"
            + f" {memory[0] / 1e6:10.0f} MB  {memory[0] / base['peak_memory_bytes'][0]:6.2f}"
        )
    return "\n".join(lines)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return f"{names[0].split(': ')[1] if names else 'unknown'}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
