"""What the documents say, held to the code."""

import json
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hubel import Client, build
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.preprocessing import ImageLimits
from model.registry import Registry
from model.types import ModelRef
from service.settings import Settings, variable_of


@pytest.fixture
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


def test_every_setting_is_in_the_table_with_its_default(root: Path) -> None:
    text = (root / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*)`|) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [
        (variable_of(name), "" if field.default is None else str(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]


def test_variables_that_deployments_set_are_settings(root: Path) -> None:
    for name in ("Dockerfile", "deploy/compose.yaml", "Makefile", "README.md"):
        for variable in re.findall(r"HUBEL_[A-Z_]+", (root / name).read_text()):
            assert variable in {variable_of(field) for field in Settings.model_fields} | {"HUBEL_"}, (name, variable)


def test_the_commands_of_the_readme_exist(root: Path) -> None:
    text = (root / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", text.replace("make are", ""))) <= targets
    commands = {"setup", "train", "evaluate", "predict", "bench", "serve", "models", "keys", "import"}
    commands |= {"explain", "export", "optimize"}
    for command in {*re.findall(r"hubel ((?:models |keys )?[a-z]+)", re.sub(r"\s+", " ", text))}:
        if command.split()[0] in commands:
            assert CliRunner().invoke(build(), [*command.split(), "--help"]).exit_code == 0, command


def test_the_readme_s_answer_is_the_true_one(root: Path, default_registry: Path, photo: bytes) -> None:
    block = re.search(r"```json\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert block
    answer = json.loads(block[1])
    classifier = load_classifier(Registry(default_registry).version(ModelRef.parse("imagenet")), EngineChoice("onnx"))
    prepared = classifier.prepare(photo, ImageLimits())
    top = classifier.top(classifier.classify(prepared.pixels[None])[0], 3)
    for shown, prediction in zip(answer["results"][0]["predictions"], top, strict=True):
        assert (shown["label"], shown["index"]) == (prediction.label, prediction.index)
        assert shown["probability"] == pytest.approx(prediction.probability, abs=2e-3)


def test_the_changelog_knows_this_version(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (root / "CHANGELOG.md").read_text()


def test_the_locks_pin_every_dependency_with_hashes_and_no_address(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    base = project["project"]["dependencies"]
    extras = project["project"]["optional-dependencies"]
    everything = sum(extras.values(), base) + project["dependency-groups"]["dev"]
    for name, wanted in (("requirements-serve.lock", base), ("requirements.lock", everything)):
        text = (root / name).read_text()
        assert "://" not in text
        pins = re.findall(r"^([a-z0-9-]+)==\S+(.*)$(?=\n    --hash)", text, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[a-z]", text, re.MULTILINE))
        assert {re.split(r"[<>=;[]", entry)[0].strip() for entry in wanted} <= {pin for pin, _ in pins}
    assert "\ntorch==" not in (root / "requirements-serve.lock").read_text()


def test_the_wheel_holds_the_command_the_three_packages_and_the_page(root: Path, tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"service/page/{path.name}" for path in (root / "service" / "page").iterdir()} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if "dist-info" not in top} == {"hubel.py", "model", "service", "training"}


def test_the_client_is_exported() -> None:
    assert Client.__module__ == "service.client"
