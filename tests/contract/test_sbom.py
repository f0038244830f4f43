"""The list of what the image serves with, held to the lock that the image is made from."""

import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from deploy.sbom import LOCK, read_lock


@pytest.fixture(scope="module")
def bom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("sbom") / "dist" / "hubel.cdx.json"
    subprocess.run(
        [sys.executable, "-m", "deploy.sbom", str(path)], cwd=LOCK.parent, check=True, timeout=60, capture_output=True
    )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_it_names_every_package_of_the_lock_with_its_version_and_hashes(bom: dict[str, Any]) -> None:
    expected: dict[tuple[str, str], set[str]] = {}
    for line in LOCK.read_text().splitlines():
        if found := re.match(r"([^\s#]+)==(\S+)", line):
            hashes = expected[found[1], found[2]] = set()
        elif found := re.search(r"--hash=sha256:(\w+)", line):
            hashes.add(found[1])
    assert len(expected) > 40
    assert {
        (part["name"], part["version"]): {each["content"] for each in part["hashes"] if each["alg"] == "SHA-256"}
        for part in bom["components"]
    } == expected
    for part in bom["components"]:
        assert part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}"


def test_it_is_of_this_version_of_the_project(bom: dict[str, Any], pytestconfig: pytest.Config) -> None:
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    root = bom["metadata"]["component"]
    assert (root["name"], root["version"]) == ("hubel", project["version"])


def test_what_the_image_does_not_install_is_marked(bom: dict[str, Any]) -> None:
    scopes = {(part["name"], part["version"]): part["scope"] for part in bom["components"]}
    assert all(scopes[pin.name, pin.version] == ("required" if pin.installed else "optional") for pin in pins())
    absent = {pin.name for pin in pins() if not pin.installed}
    assert "colorama" in absent  # Windows'
    assert "uvloop" not in absent


def test_it_tells_who_needs_whom(bom: dict[str, Any], pytestconfig: pytest.Config) -> None:
    edges = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in bom["dependencies"]}
    known = {part["bom-ref"] for part in bom["components"]} | {"hubel"}
    assert edges.keys() == known
    assert set().union(*edges.values()) == known - {"hubel"}  # nothing is there for nobody
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=;[ ]", entry)[0] for entry in project["dependencies"]}
    assert wanted <= {re.split("[/@]", ref)[1] for ref in edges["hubel"]}


def test_most_licences_are_known(bom: dict[str, Any]) -> None:
    installed = [part for part in bom["components"] if part["scope"] == "required"]
    assert [part["name"] for part in installed if not part.get("licenses")] == []


def test_it_names_no_address(bom: dict[str, Any]) -> None:
    assert bom.pop("$schema") == "http://cyclonedx.org/schema/bom-1.6.schema.json"
    assert "://" not in json.dumps(bom)


def test_it_is_written_where_git_does_not_look(pytestconfig: pytest.Config) -> None:
    (path,) = re.findall(r"deploy\.sbom (\S+)", (pytestconfig.rootpath / "Makefile").read_text())
    assert f"/{path.split('/')[0]}/" in (pytestconfig.rootpath / ".gitignore").read_text().splitlines()


def pins() -> list[Any]:
    return list(read_lock(LOCK.read_text()))
