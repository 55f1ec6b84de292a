"""The house: who may import whom, a test file per module, and commands as README and make say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTED_ELSEWHERE = ("kernels_kaggle",)  # by the subjects of test_kaggle_*.py
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


def name_of_test(module):
    """The name of the test file of a module, given by its path from the root."""
    if module.stem == "__main__":
        return "cli"
    return f"stage_{module.stem}" if module.parent.name == "stages" else module.stem


def first_line(path):
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def test_every_module_has_its_test_file():
    """Named after it, or one whose first line names it in quotes, such as `errors`."""
    tests = {path.stem: first_line(path) for path in (ROOT / "tests").glob("test_*.py")}
    named = set(re.findall(r"`(\w+)`", " ".join(tests.values())))
    modules = [
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and package not in TESTED_ELSEWHERE
    ]
    assert len(modules) > 50
    untested = {
        str(module)
        for module in modules
        if f"test_{name_of_test(module)}" not in tests and name_of_test(module) not in named
    }
    assert not untested


def test_every_test_file_says_what_it_tests_and_is_short():
    for path in (ROOT / "tests").glob("test_*.py"):
        assert first_line(path).endswith("."), path
        if not path.name.startswith("test_kaggle"):
            assert len(path.read_text().splitlines()) <= 300, path


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


def test_make_calls_every_command_and_no_other():
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = set(re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE))
    called = re.findall(r"(?:-m pipeline|\$\(LAUNCH\)) ([a-z]+)", (ROOT / "Makefile").read_text())
    assert len(commands) > 5
    assert set(called) == commands


def test_files_and_folders_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    named = re.findall(
        r"`((?:augment|solver|submission|pipeline|kernels_kaggle|experiments|tests|docs)/[^`*]*)`",
        text,
    )
    assert named
    assert all((ROOT / name).exists() for name in named)


def test_make_alone_lists_the_targets():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE))
    assert listed == make_targets()


@pytest.mark.parametrize("path", sorted((ROOT / "kernels_kaggle").rglob("*.ipynb")), ids=str)
def test_notebooks_have_no_outputs(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
