"""The Dockerfile against the repository; no engine is used, so the image itself is not built."""

import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def stages(repository: Path) -> list[list[tuple[str, str]]]:
    text = (repository / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, rest.strip()))
    return found


def _pins(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    pins = [line.split(" ")[0].split("==") for line in lines if re.match(r"[a-z0-9]", line)]
    return {canonicalize_name(name.partition("[")[0]): version for name, version in pins}


def test_bases_are_pinned_and_the_same(stages: list[list[tuple[str, str]]]) -> None:
    bases = {stage[0][1].split()[0] for stage in stages}
    assert len(stages) == 2
    assert len(bases) == 1  # the virtual environment points at the interpreter of its base
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", bases.pop())


def test_copied_files_exist_and_reach_the_engine(
    stages: list[list[tuple[str, str]]], repository: Path
) -> None:
    lines = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    copied: set[str] = set()
    for instruction, rest in (line for stage in stages for line in stage):
        if instruction == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            copied.update(sources)
    assert copied == kept
    assert all((repository / source).exists() for source in copied)


def test_all_packages_of_the_wheel_are_copied(
    stages: list[list[tuple[str, str]]], repository: Path
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copies = {rest for instruction, rest in stages[0] if instruction == "COPY"}
    assert {f"{package} {package}" for package in packages} <= copies


def test_nothing_comes_from_elsewhere(stages: list[list[tuple[str, str]]]) -> None:
    for instruction, rest in (line for stage in stages for line in stage):
        assert instruction != "ADD"
        assert "://" not in rest
        assert not re.search(r"\b(curl|wget|apt-get|gcc)\b", rest), rest
        if "pip" in rest and re.search(r"\b(install|wheel)\b", rest):
            assert "--require-hashes" in rest or "--no-index" in rest, rest


def test_final_image_has_no_build_tools_and_no_root(
    stages: list[list[tuple[str, str]]],
) -> None:
    final = stages[-1]
    assert [rest for instruction, rest in final if instruction == "USER"] == ["10001:10001"]
    # After USER nothing is run or copied any more.
    after = final[[instruction for instruction, _ in final].index("USER") + 1 :]
    assert {instruction for instruction, _ in after} <= {"WORKDIR", "ENTRYPOINT", "CMD", "LABEL"}
    copies = [rest for instruction, rest in final if instruction == "COPY"]
    assert copies[0] == "--from=build /opt/citywatch /opt/citywatch"
    assert not any("/opt/build" in rest or "/wheels" in rest for _, rest in final)
    assert "HEALTHCHECK" not in dict(final)


def test_entrypoint_is_the_command_of_the_package(stages: list[list[tuple[str, str]]]) -> None:
    (name,) = re.fullmatch(r'\["(\w+)"\]', dict(stages[-1])["ENTRYPOINT"]).groups()
    (script,) = entry_points(group="console_scripts", name=name)
    assert callable(script.load())


def test_health_check_stands_where_compose_looks(
    stages: list[list[tuple[str, str]]], services: dict[str, dict[str, dict[str, list[str]]]]
) -> None:
    copies = [rest.split() for instruction, rest in stages[-1] if instruction == "COPY"]
    assert ["deploy/connected.py", "/opt/citywatch/connected.py"] in copies
    for name in ("bridge", "pager"):
        assert services[name]["healthcheck"]["test"][2] == "/opt/citywatch/connected.py"


@pytest.mark.parametrize("lock", ["runtime.txt", "build.txt"])
def test_locks_agree(repository: Path, lock: str) -> None:
    everything = _pins(repository / "requirements/locked.txt")
    # setuptools is only wanted for the one package that has no wheel, in the build stage.
    pins = {n: v for n, v in _pins(repository / "requirements" / lock).items() if n != "setuptools"}
    assert pins
    assert {name: everything.get(name) for name in pins} == pins


def test_what_one_benchmark_needs_is_measured_on_the_same_numpy_and_installed_nowhere_else(
    repository: Path,
) -> None:
    everything = _pins(repository / "requirements/locked.txt")
    bench = _pins(repository / "requirements/bench.txt")
    assert "numpy" in bench
    assert "river" in bench.keys() - everything.keys()
    shared = bench.keys() & everything.keys()
    assert {name: everything[name] for name in shared} == {name: bench[name] for name in shared}


def test_runtime_lock_covers_the_dependencies(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    pins = _pins(repository / "requirements/runtime.txt")
    for text in project["project"]["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text
    build = _pins(repository / "requirements/build.txt")
    for text in project["build-system"]["requires"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(build[canonicalize_name(wanted.name)]), text


def test_runtime_lock_leaves_out_the_other_extras(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    pins = _pins(repository / "requirements/runtime.txt")
    for text in project["project"]["optional-dependencies"]["embedded"]:
        assert canonicalize_name(Requirement(text).name) not in pins
    assert not any(fnmatch(name, "pytest*") for name in pins)


def test_base_is_a_python_that_is_supported(
    stages: list[list[tuple[str, str]]], repository: Path
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    version = re.search(r"python:(\d+\.\d+\.\d+)", stages[0][0][1])
    assert version is not None
    wanted = Requirement(f"python{project['project']['requires-python']}").specifier
    assert wanted.contains(version[1])
    assert wanted.contains(".".join(map(str, sys.version_info[:3])))
