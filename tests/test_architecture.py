"""The house stands on its rules: imports run downhill, faces are complete, light packages stay light."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "calibration_data": set(),
    "profiler": {"calibration_data"},
    "cost_models": {"calibration_data"},
    "cwmp": {"calibration_data", "profiler", "cost_models"},
}
HEAVY = ("torch", "pandas", "sklearn", "matplotlib", "numba")


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_downhill(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        ours = imported_packages(file) & set(ALLOWED) - {package}
        assert ours <= ALLOWED[package], f"{file.relative_to(ROOT)} imports {ours - ALLOWED[package]}"


def test_one_room_knows_flower() -> None:
    for package in ALLOWED:
        for file in sorted((ROOT / package).rglob("*.py")):
            inside = file.is_relative_to(ROOT / "cwmp" / "flower")
            assert inside or "flwr" not in imported_packages(file), f"{file.relative_to(ROOT)} imports flwr"


def test_one_module_starts_flowers_programs() -> None:
    """Their names and flags change with nearly every version."""
    room = ROOT / "cwmp" / "flower"
    naming = [file.name for file in sorted(room.glob("*.py")) if "flower-super" in file.read_text()]
    assert naming == ["launch.py"]


def module_names() -> list[str]:
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for package in ALLOWED
        for file in sorted((ROOT / package).rglob("*.py"))
        if file.name not in ("__init__.py", "__main__.py")
    ]


def test_modules_do_not_import_each_other_in_circles() -> None:
    modules = set(module_names())
    edges = {
        name: {
            node.module
            for node in ast.walk(ast.parse((ROOT / Path(*name.split("."))).with_suffix(".py").read_text()))
            if isinstance(node, ast.ImportFrom) and node.module in modules
        }
        for name in modules
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join((*path, name))}"
        if name not in done:
            for target in edges[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in modules:
        visit(name, ())


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_hands_on_exactly_what_it_imports(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    exported = set(getattr(module, "__all__", []))
    assert imported <= exported
    assert all(hasattr(module, name) for name in exported)


@pytest.mark.parametrize("package", ["profiler", "cost_models", "cwmp.__main__"])
def test_importing_stays_light(package: str) -> None:
    code = f"import {package}, sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == []
