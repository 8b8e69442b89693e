"""Contract 10: a lower floor never imports a higher one, and each floor only knows the packages that it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "finery"
FLOORS = {
    **dict.fromkeys(("config", "types", "errors", "run"), 1),
    "data": 2,
    "model": 3,
    "infer": 4,
    "evaluate": 5,
    "train": 6,
    **dict.fromkeys(("cli", "demo", "doctor", "status", "__init__"), 7),
}
# What a floor may import from outside, beside what the lower ones may; rich is for whoever speaks to a terminal.
PACKAGES = {
    1: {"pydantic", "pydantic_core", "yaml"},
    2: {"numpy", "jinja2", "pyarrow", "rich"},
    3: {"torch", "transformers", "peft", "safetensors", "gguf", "huggingface_hub"},
    6: {"accelerate"},
}
DISTRIBUTION = {"yaml": "pyyaml", "pydantic_core": "pydantic"}
TORCH_IN_DATA = {"data/batch.py"}


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Every imported module, lazy ones and those for type checkers too; relative names made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            yield from [f"finery.{alias.name}" for alias in node.names] if base == "finery" else [base]


def part_of(module: str) -> str:
    """The part of the house that a module of ours belongs to; what only the public surface offers is of the top floor."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] in FLOORS else "__init__"


def without_types(tree: ast.Module) -> ast.Module:
    """A copy without what is imported for type checkers alone: it costs nothing, so any package may be named there."""
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(body, tree.type_ignores)


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def wrong_imports(file: str, text: str) -> list[str]:
    """What a file below src/finery must not import."""
    parts = Path(file).with_suffix("").parts
    floor = FLOORS[parts[0]]
    allowed = set().union(*(packages for level, packages in PACKAGES.items() if level <= floor))
    if file in TORCH_IN_DATA:
        allowed |= {"torch"}
    package, tree = ".".join(("finery", *parts[:-1])), ast.parse(text)
    ours = [module for module in imports(tree, package) if module.split(".")[0] == "finery"]
    found = [module for module in ours if FLOORS[part_of(module)] > floor]
    for module in imports(without_types(tree), package):
        top = module.split(".")[0]
        if top not in sys.stdlib_module_names | allowed | {"finery"}:
            found.append(module)
    return [f"{file} (floor {floor}) imports {module}" for module in found]


def test_every_module_has_its_floor() -> None:
    unknown = {path.relative_to(SOURCE).with_suffix("").parts[0] for path in sources()} - FLOORS.keys()
    assert not unknown, f"say in FLOORS where these belong: {unknown}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_import_goes_upwards(path: Path) -> None:
    assert wrong_imports(path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data/x.py", "import finery.model.load"),
        ("data/x.py", "def f():\n    from finery.train import loop"),
        ("data/x.py", "from ..model import load"),
        ("data/x.py", "from finery import cli"),
        ("data/pack.py", "import torch"),
        ("config/x.py", "import numpy"),
        ("infer/x.py", "from accelerate import Accelerator"),
        ("model/x.py", "import requests"),
        ("evaluate/x.py", "if TYPE_CHECKING:\n    from finery.train.loop import Job"),
    ],
)
def test_the_walk_finds_them(file: str, text: str) -> None:
    assert len(wrong_imports(file, text)) == 1


def test_every_imported_package_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {line.split(">")[0].split("=")[0].strip().lower() for line in project["dependencies"]}
    found = {module.split(".")[0] for path in sources() for module in imports(ast.parse(path.read_text("utf-8")), "finery")}
    used = {DISTRIBUTION.get(name, name) for name in found - {"finery"} - sys.stdlib_module_names}
    assert used - declared <= {"huggingface_hub"}, (
        "huggingface_hub comes with transformers; nothing else may be taken for granted"
    )


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("finery", "pydantic torch transformers peft numpy pyarrow rich yaml"),
        ("finery.cli", "pydantic torch transformers peft numpy pyarrow rich yaml"),
        ("finery.config.load", "torch transformers peft numpy pyarrow rich"),
        ("finery.run", "pydantic torch transformers peft numpy pyarrow rich"),
        ("finery.status", "torch transformers peft numpy pyarrow rich"),
        ("finery.data.prepare", "torch transformers peft pyarrow"),
        ("finery.train.check", "torch transformers peft pyarrow"),
        ("finery.train.start", "torch transformers peft pyarrow accelerate"),
        ("finery.demo", "torch transformers peft pyarrow"),
        ("finery.doctor", "torch transformers peft pyarrow"),
    ],
)
def test_heavy_packages_wait_until_they_are_needed(module: str, heavy: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
