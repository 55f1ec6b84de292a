"""The house: who may import whom, a test file per module, and commands as README and make say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from pipeline.recipes import load_recipe
from pipeline.settings import describe_settings

ROOT = Path(__file__).resolve().parent.parent
# Settings that docs/EXPERIMENTS.md still names.
REMOVED = {"model.conv_width"}
TESTED_ELSEWHERE = ("kernels_kaggle",)  # by the subjects of test_kaggle_*.py
PACKAGES = ("augment", "solver", "submission", "pipeline", "kernels_kaggle")
MAY_IMPORT = {
    "augment": {"augment", "numpy", "numba", "orjson"},
    "submission": {"submission", "augment", "numpy", "orjson"},
    "solver": {
        "solver", "augment", "numpy", "numba", "orjson", "torch", "einops", "safetensors",
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


def pages():
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_of(text):
    """The code spans and code blocks of a page."""
    return re.findall(r"`[^`]*`|^    .*$", text, re.MULTILINE)


def tree_of_the_readme():
    """The files that the tree names, by the folder they stand below."""
    section = (ROOT / "README.md").read_text().partition("\n## The tree\n")[2]
    files = {}
    for line in section.partition("\n## ")[0].splitlines():
        if folder := re.match(r" {4}([\w/]+)/(  |$)", line):
            files[folder[1]] = named = []
        elif names := re.match(r" {6}([\w.]+(?:, [\w.]+)*)(  |$)", line):
            named.extend(names[1].split(", "))
    return files


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1000
    assert max(map(len, text.splitlines())) <= 100


def test_the_tree_of_the_readme_names_every_file_and_no_other():
    tree = tree_of_the_readme()
    for folder in (*PACKAGES, "experiments"):
        for path in (ROOT / folder, *(p.parent for p in (ROOT / folder).rglob("__init__.py"))):
            tree.setdefault(str(path.relative_to(ROOT)), [])
    for folder, named in tree.items():
        assert (ROOT / folder).is_dir(), folder
        if folder in ("tests", "docs"):
            continue
        files = [path.name for path in (ROOT / folder).iterdir() if path.is_file()]
        assert sorted(named) == sorted(set(files) - {"__init__.py"}), folder


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    relative = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in relative if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_targets_and_files_that_a_page_names_exist(page):
    code = "\n".join(code_of(page.read_text()))
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= make_targets()
    folders = "|".join((*PACKAGES, "experiments", "tests", "docs"))
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", code)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page):
    names = {name for name, _, _ in describe_settings(load_recipe("demo", ()))}
    sections = "|".join({name.partition(".")[0] for name in names if "." in name})
    code = "\n".join(code_of(page.read_text()))
    named = set(re.findall(rf"(?<![\w./])(?:{sections})\.[a-z]\w+(?![\w./(])", code))
    named = {name for name in named if not name.endswith((".py", ".json", ".ipynb", ".csv"))}
    assert named - names == (REMOVED if page.name == "EXPERIMENTS.md" else set())


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in pages()[1:] if f"](docs/{page.name})" not in text] == []


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
