"""The command line: what it prints, what it refuses, how it exits."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hubel import build
from model.registry import Registry
from tests.command import hubel
from tests.fakes import encode, noise


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(encode(noise()))
    return path


def test_predict_answers_locally(published_tiny: Path, picture: Path) -> None:
    result = hubel("predict", picture, "--model", "tiny", "--json", "--top-k", "2", HUBEL_REGISTRY=str(published_tiny))
    (answer,) = json.loads(result.stdout)
    assert answer["file"] == str(picture)
    assert [p["label"] in ("ant", "bee", "cow") for p in answer["predictions"]] == [True, True]
    table = hubel("predict", picture, "--model", "tiny", "--registry", published_tiny)
    assert (table.returncode, "ant" in table.stdout) == (0, True)


def test_predict_tells_of_a_bad_image_and_goes_on(published_tiny: Path, picture: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    result = hubel("predict", bad, picture, "--model", "tiny", "--json", "--registry", published_tiny)
    assert result.returncode == 1
    first, second = json.loads(result.stdout)
    assert first["error"]["title"] == "Not an image that can be read"
    assert second["predictions"]


def test_setup_gives_production_to_a_model_that_lost_it(tiny_root: Path) -> None:
    for name in ("imagenet", "digits"):
        shutil.copytree(tiny_root / "tiny", tiny_root / name)
    (tiny_root / "imagenet" / "state.json").unlink()
    assert hubel("setup", "--registry", tiny_root).returncode == 0
    assert Registry(tiny_root).state("imagenet").aliases == {"production": 1}


def test_a_misspelt_variable_stops_every_command(published_tiny: Path) -> None:
    result = hubel("models", "list", "--registry", published_tiny, HUBEL_REGISTY="x")
    assert (result.returncode, result.stderr) == (
        2,
        "hubel: HUBEL_REGISTY is not a setting: did you mean HUBEL_REGISTRY?\n",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "list", "--registry", "/nowhere"], ["/nowhere", "hubel setup", "HUBEL_REGISTRY"]),
        (["serve", "--registry", "/nowhere"], ["/nowhere", "hubel setup", "HUBEL_REGISTRY"]),
        (["serve", "--port", "99999"], ["HUBEL_PORT is 99999"]),
        (["models", "show", "dogs"], ["no model 'dogs'", "has tiny"]),
        (["models", "show", "tiny:x"], ["not a model reference"]),
        (["models", "promote", "tiny", "--alias", "7"], ["version number"]),
        (["train", "photos"], ["photos", "digits"]),
        (["train", "digits", "--alias", "Bad Alias"], ["'Bad Alias' cannot be the name of an alias"]),
        (["train", "digits", "--name", "../evil"], ["'../evil' cannot be the name of a model"]),
        (["import", "imagenet", "--alias", "2"], ["version number"]),
        (["import", "imagenet", "--registry", "/proc/nowhere"], ["/proc/nowhere cannot be written"]),
        (["import", "resnet"], ["resnet", "imagenet"]),
        (["predict", "missing.jpg"], ["missing.jpg", "does not exist"]),
    ],
)
def test_what_is_wrong_is_said_and_ends_with_2(arguments: list[str], words: list[str], published_tiny: Path) -> None:
    result = hubel(*arguments, HUBEL_REGISTRY=str(published_tiny))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_misspelt_setting_stops_the_start_and_names_the_right_one(published_tiny: Path) -> None:
    result = hubel("serve", "--registry", published_tiny, HUBEL_MAX_BATCHSIZE="4")
    assert (result.returncode, result.stderr) == (
        2,
        "hubel: HUBEL_MAX_BATCHSIZE is not a setting: did you mean HUBEL_MAX_BATCH_SIZE?\n",
    )


def test_nothing_is_written_into_the_home_directory(published_tiny: Path, picture: Path, tmp_path: Path) -> None:
    """ONNX Runtime would leave an identifier there, and report to its makers; CI=true would hide that."""
    home = tmp_path / "home"
    home.mkdir()
    result = hubel("predict", picture, "--model", "tiny", "--registry", published_tiny, HOME=str(home), CI="")
    assert result.returncode == 0
    assert list(home.rglob("*")) == []


def test_names_that_a_terminal_or_rich_would_read_as_orders_are_printed_as_they_are(
    published_tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "q[" / "z[red].png"
    path.parent.mkdir()
    path.write_bytes(encode(noise()))
    result = hubel("predict", "z[red].png", "--model", "tiny", "--registry", published_tiny, cwd=path.parent)
    assert (result.returncode, "z[red].png" in result.stdout) == (0, True)
    narrow = hubel("models", "list", "--registry", published_tiny, PYTHONIOENCODING="ascii", COLUMNS="44")
    assert (narrow.returncode, "tiny" in narrow.stdout) == (0, True)


def test_serve_starts_without_what_other_commands_import() -> None:
    script = "import hubel, sys; hubel.build('serve'); print({'rich.console', 'training.cli'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_serve_is_the_same_command_alone_and_among_all() -> None:
    alone, among = (CliRunner().invoke(build(command), ["serve", "--help"]).stdout for command in ("serve", None))
    assert alone == among
    assert "--tls-cert" in alone


def test_the_version_is_told(published_tiny: Path) -> None:
    assert hubel("--version").stdout == importlib.metadata.version("hubel") + "\n"


def test_a_service_that_cannot_be_reached_is_said(picture: Path) -> None:
    result = hubel("predict", picture, "--url", "http://127.0.0.1:9")
    assert result.returncode == 2
    assert "http://127.0.0.1:9 cannot be reached" in result.stderr


def test_making_models_without_torch_names_the_line_to_type(tmp_path: Path) -> None:
    """A folder with an unfindable torch stands in for the base install."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    )
    for command in (["setup"], ["train", "digits"], ["import", "imagenet"]):
        result = hubel(*command, "--registry", tmp_path / "registry", PYTHONPATH=str(tmp_path))
        assert result.returncode == 2
        assert "pip install 'hubel[torch]'" in result.stderr
