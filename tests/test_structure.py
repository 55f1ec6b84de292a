"""The house: who may import whom, and that the README tells the truth about the commands."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("augment", "solver", "submission", "pipeline", "kernels_kaggle")
MAY_IMPORT = {
    "augment": {"augment", "numpy", "numba", "orjson"},
    "submission": {"submission", "augment", "numpy", "orjson"},
    "solver": {
        "solver", "augment", "numpy", "orjson", "torch", "einops", "safetensors",
        "adam_atan2_pytorch", "yaml",
    },
    "pipeline": {
        "pipeline", "augment", "solver", "submission", "numpy", "orjson", "typer", "pydantic",
        "rich", "tqdm", "pooch", "torch", "wandb",
    },
    "kernels_kaggle": {
        "kernels_kaggle", "pipeline", "augment", "solver", "submission", "numpy", "orjson", "typer",
        "pooch", "pydantic",
    },
}  # fmt: skip


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        foreign = set(imported_packages(path)) - set(sys.stdlib_module_names)
        assert foreign <= MAY_IMPORT[package], path


def make_targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    targets = set(
        re.findall(
            r"\bmake ([a-z-]+)\b",
            "\n".join(re.findall(r"`[^`]*`|^    .*$|```.*?```", text, re.M | re.S)),
        )
    )
    assert {"predict", "test", "pretrain", "score"} <= targets
    assert targets <= make_targets()
    stages = set(re.findall(r"python -m pipeline ([a-z]+)", text))
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(f"  {stage} " in shown for stage in stages)


def test_files_and_folders_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    named = re.findall(
        r"`((?:augment|solver|submission|pipeline|kernels_kaggle|tests|docs)/[^`*]*)`", text
    )
    assert named
    assert all((ROOT / name).exists() for name in named)


def test_make_alone_lists_the_targets():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE))
    assert listed == make_targets() - {"help"} | {"help"}


@pytest.mark.parametrize("path", sorted((ROOT / "kernels_kaggle").rglob("*.ipynb")), ids=str)
def test_notebooks_have_no_outputs(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
