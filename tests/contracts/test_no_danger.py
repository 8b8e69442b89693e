"""Contract 11: no shell strings, pickle, eval, unsafe YAML, torch.load or code from model folders anywhere in the tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system": "a shell string",
    "os.popen": "a shell string",
    "subprocess.getoutput": "a shell string",
    "subprocess.getstatusoutput": "a shell string",
    "torch.load": "unpickles; use safetensors",
    "torch.save": "pickles; use safetensors",
    "yaml.load": "use yaml.safe_load",
    "yaml.load_all": "use yaml.safe_load_all",
    "yaml.full_load": "use yaml.safe_load",
    "yaml.unsafe_load": "use yaml.safe_load",
    "tempfile.mktemp": "another process can take the name",
}
METHODS = {"save_state": "accelerate pickles in it", "load_state": "accelerate unpickles in it"}
LOADERS = {"Loader", "FullLoader", "UnsafeLoader", "CLoader"}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(text: str) -> Iterator[str]:
    """`line: what` of everything that must not be in the tree."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in MODULES)
            if isinstance(node, ast.ImportFrom):
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (f"{node.lineno}: {name}: {CALLS[name]}" for name in whole if name in CALLS)
        elif isinstance(node, ast.Attribute) and dotted(node) in {f"yaml.{name}" for name in LOADERS}:
            yield f"{node.lineno}: {dotted(node)}"
        elif isinstance(node, ast.Call):
            yield from calls(node)


def calls(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    if name in BUILTINS:
        yield f"{node.lineno}: {name}()"
    if name in CALLS:
        yield f"{node.lineno}: {name}(): {CALLS[name]}"
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield f"{node.lineno}: .{node.func.attr}(): {METHODS[node.func.attr]}"
    for keyword in node.keywords:
        switched_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and not switched_off:
            yield f"{node.lineno}: {keyword.arg} is not False"


def files() -> list[Path]:
    return sorted(path for folder in ("src", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_dangerous_in_the_tree(path: Path) -> None:
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill",
        "eval('1')",
        "exec(code)",
        "os.system('ls')",
        "from os import system",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "torch.load(path)",
        "torch.save(x, path)",
        "yaml.load(text, Loader=x)",
        "yaml.unsafe_load(text)",
        "x = yaml.UnsafeLoader",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=settings.trust)",
        "numpy.load(x, allow_pickle=True)",
        "accelerator.save_state(folder)",
    ],
)
def test_the_search_finds_it(text: str) -> None:
    assert len(list(dangers(text))) == 1


@pytest.mark.parametrize("text", ["model.eval()", "yaml.safe_load(x)", "subprocess.run(['ls'])", "f(trust_remote_code=False)"])
def test_the_search_leaves_the_harmless(text: str) -> None:
    assert list(dangers(text)) == []
