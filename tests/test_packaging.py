"""What is installed is what is in the repository, is declared, pinned and documented, and starts."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

ROOT = Path(__file__).parent.parent
PACKAGES = ("dicom_node", "ml", "worker", "migrations")
TORCH_FREE = ("dicom_node.cli", "ml.errors", "ml.volume", "ml.prediction", "ml.data", "ml.phantom", "ml.evaluation")


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def declared(*extras: str) -> list[Requirement]:
    """The dependencies that pyproject.toml declares, those of the extras too."""
    words = [*project()["dependencies"]]
    for extra in extras:
        words += project()["optional-dependencies"][extra]
    found = [Requirement(word) for word in words]
    return [requirement for requirement in found if not requirement.marker or requirement.marker.evaluate()]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Every distribution that these bring along here: normalised name -> installed version without its local part."""
    versions: dict[str, str] = {}
    seen: set[str] = set()
    while requirements:
        requirement = requirements.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = importlib.metadata.distribution(requirement.name)
        versions[canonicalize_name(requirement.name)] = distribution.version.partition("+")[0]
        for word in distribution.requires or []:
            needed = Requirement(word)
            if any(not needed.marker or needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                requirements.append(needed)
    return versions


def imported(folders: tuple[str, ...]) -> dict[str, str]:
    """Every third-party module imported below these folders -> one file that does."""
    own = {*PACKAGES, "tests", "bench", *sys.stdlib_module_names}
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            found |= {name: str(path) for module in modules if (name := module.partition(".")[0]) not in own}
    return found


def commands(group: click.Group, prefix: str = "dicom-node") -> Iterator[tuple[str, click.Command]]:
    """Every command of the CLI with the words that call it."""
    for name, command in group.commands.items():
        words = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from commands(command, words)  # type: ignore[arg-type]  # Typer has its own class of groups
        else:
            yield words, command


def test_every_file_of_the_packages_is_in_the_wheel(tmp_path: Path) -> None:
    """Weights, templates, tables of codes and migrations too: nothing works from the checkout only."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    expected = {
        str(path.relative_to(tmp_path))
        for package in PACKAGES
        for path in (tmp_path / package).rglob("*")
        if path.is_file()
    }
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").iterdir()
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.parametrize(
    ("folders", "extras"), [(PACKAGES, ()), (("tests", "bench"), ("test",))], ids=["packages", "tests"]
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    """Not left to come along with something else by chance."""
    allowed: set[str] = {canonicalize_name(requirement.name) for requirement in declared(*extras)}
    allowed |= {"amqp", "kombu", "redis", "click"}  # what celery[redis] and typer are made of
    if extras:
        allowed |= {"packaging"}  # part of pytest
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        module: file
        for module, file in imported(folders).items()
        if not allowed & {canonicalize_name(name) for name in distributions.get(module, [])}
    }
    assert undeclared == {}


def test_every_dependency_is_pinned_to_the_installed_version() -> None:
    """Those of the dependencies too, without local suffixes, so that any build of torch fits."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert not [pin for pin in pins.values() if "+" in pin]
    installed = closure(declared("test"))
    assert {name: pins.get(name) for name in installed} == installed


def test_every_dependency_is_explained() -> None:
    """docs/dependencies.md: what for, why this one."""
    text = (ROOT / "docs" / "dependencies.md").read_text().lower()
    names = [canonicalize_name(requirement.name) for requirement in declared("test")]
    assert [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)] == []


@pytest.mark.parametrize(
    "command",
    [["dicom-node"], ["python", "-m", "dicom_node"], ["python", "-m", "worker"], ["python", "-m", "worker.demo"],
     ["python", "-m", "ml"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_starts_and_explains_itself(command: list[str], tmp_path: Path) -> None:
    """From any folder, installed as it is."""
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:], "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_a_benchmark_that_there_is_not_is_wrong_usage() -> None:
    """Nothing runs, and it says what could."""
    command = [sys.executable, "-m", "bench", "ingset"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no benchmark is called ingset; there are ingest.py, engines.py" in done.stderr


def test_the_node_and_the_torch_free_parts_of_ml_load_no_torch() -> None:
    """A listener starts in a second and needs no gigabytes; the contract is checked at run time too."""
    script = f"import sys, {', '.join(TORCH_FREE)}; sys.exit('torch' in sys.modules or 'openvino' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_import_contracts_hold() -> None:
    """The layers of pyproject.toml, [tool.importlinter]."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Makefile", "pyproject.toml", "constraints.txt", ".ci/run", "tests/peers/install.sh"])
def test_the_build_names_no_registry_and_no_machine(name: str) -> None:
    """Where packages come from is the business of the machine's own configuration."""
    text = (ROOT / name).read_text()
    assert re.findall(r"https?://\S+|file://\S+|/(?:home|root|work)/\S*", text) == []


def test_make_hands_study_and_out_to_the_demo() -> None:
    """`make demo STUDY=... OUT=...`, spaces included."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo", "STUDY=a folder", "OUT=its result"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '-m worker.demo --study "a folder" --out "its result"' in done.stdout
