"""`hubel train`: what it refuses and in which words, and what it tells of the data that it takes."""

import shutil
import signal
from pathlib import Path

import pytest

from model.checkpoint import CARD
from model.registry import Registry
from model.types import ModelRef
from tests.children import Child, start
from tests.fakes import write_photos

SHORT = ("--epochs", "2", "--batch-size", "32", "--registry", "registry", "--runs", "runs")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 images; not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    write_photos(folder)
    return folder


def train(cwd: Path, *arguments: str | Path) -> Child:
    """Run `hubel train` to its end, with the registry and the runs in `cwd`."""
    child = start("train", *arguments, *SHORT[4:], cwd=cwd)
    child.wait()
    return child


def assert_refused(child: Child, cwd: Path, *words: str) -> None:
    """One line that names the thing, exit code 2, and nothing in the registry or half done."""
    assert child.process.exitcode == 2, child.stderr
    (line,) = child.stderr.splitlines()
    assert line.startswith("hubel: ")
    for word in words:
        assert word in line
    assert "published" not in child.stdout
    assert list((cwd / "registry").rglob("*")) == []
    assert list((cwd / "runs").rglob("scratch")) == []


def cut(path: Path) -> None:
    """Leave the head of an image only."""
    path.write_bytes(path.read_bytes()[:100])


def make_one_class(folder: Path) -> None:
    write_photos(folder, ("red",))


def make_class_without_images(folder: Path) -> None:
    write_photos(folder)
    (folder / "void").mkdir()


def make_loose_images(folder: Path) -> None:
    write_photos(folder, (".",))


def make_broken(folder: Path) -> None:
    for path in write_photos(folder)[::3]:
        cut(path)


def make_table(folder: Path) -> None:
    write_photos(folder / "images", count=3)
    (folder / "table.csv").write_text("file,label\nimages/red/0-00.png,red\nimages/blue/0-00.png,\n")


def make_too_few(folder: Path) -> None:
    write_photos(folder, count=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, ["data is empty", "a folder of its own"]),
        (make_one_class, ["only one class, red", "at least two"]),
        (make_class_without_images, ["no images in the class folder void"]),
        (make_loose_images, ["no class folders"]),
        (make_broken, ["20 of 60 images (33.3%)", "--max-unreadable 0.1", "blue/0-00.png"]),
        (make_table, ["table.csv, row 3", "label is missing"]),
        (make_too_few, ["3 images of 3 classes are too few"]),
        (lambda path: path.write_text("text"), ["one file of no form that is known"]),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_by_what_is_wrong(
    make: object, words: list[str], tmp_path: Path
) -> None:
    assert callable(make)
    make(tmp_path / "data")
    assert_refused(train(tmp_path, "data"), tmp_path, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], ["epochs is 0", "from 1 to"]),
        (["--batch-size", "0"], ["batch_size is 0"]),
        (["--seed", "-1"], ["seed is -1"]),
        (["--learning-rate", "0"], ["learning_rate is 0"]),
        (["--learning-rate", "nan"], ["learning_rate is nan"]),
        (["--time-budget", "-1"], ["time_budget is -1"]),
        (["--augment", "heavy"], ["augment 'heavy'", "none, light, photo, digits"]),
        (["--optimizer", "adam"], ["optimizer 'adam'", "adamw, sgd"]),
        (["--schedule", "step"], ["schedule 'step'", "one_cycle, cosine"]),
        (["--mix", "blend"], ["mix 'blend'", "none, mixup, cutmix"]),
        (["--class-weights", "on"], ["class_weights 'on'", "none, balanced"]),
        (["--precision", "fp8"], ["precision 'fp8'", "auto, fp32, bf16, fp16"]),
        (["--precision", "fp16", "--device", "cpu"], ["fp16 is for GPUs"]),
        (["--device", "tpu"], ["'tpu' is not known", "auto, cpu or cuda"]),
        (["--device", "cuda"], ["finds no CUDA device", "--device cpu"]),
        (["--size", "4"], ["--size is 4", "from 8 to 1024"]),
        (["--arch", "resnet19"], ["no architecture 'resnet19'", "resnet18"]),
        (["--arch", "resnet19", "--weights", "none"], ["no architecture 'resnet19'", "resnet18"]),
        (["--arch", "resnet18"], ["not on this machine", "--download", "--weights none"]),
        (["--arch", "efficientnet_lite0", "--weights", "missing.pth"], ["missing.pth cannot be read"]),
        (["--arch-config", '{"filters": 3}'], ["'classic' does not take", "filters: Extra inputs"]),
        (["--arch-config", '{"stages": [[4], [4], [4], [4], [4]]}'], ["nothing of a 24 x 24 image is left"]),
        (["--fine-tune", "3"], ["--fine-tune goes on from trained weights", "--epochs"]),
        (["--arch", "efficientnet_lite0", "--epochs", "3"], ["--epochs: a frozen backbone", "--fine-tune EPOCHS"]),
        (["--arch", "efficientnet_lite0", "--mix", "cutmix"], ["--mix: a frozen backbone"]),
        (["--arch", "efficientnet_lite0", "--epochs", "3", "--fine-tune", "2"], ["--fine-tune says how many"]),
        (["--alias", "Bad Alias"], ["'Bad Alias' cannot be the name of an alias"]),
        (["--alias", "7"], ["alias '7' would read as a version number"]),
        (["--name", "../evil"], ["'../evil' cannot be the name of a model"]),
        (["--arch-config", '{"height": 64}'], ["--arch-config sets height", "--size"]),
        (["--resume"], ["no stopped run is in runs/photos", "leave --resume away"]),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_those_that_can(
    photos: Path, arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    if "cuda" in arguments and _has_cuda():
        pytest.skip("this machine has a GPU")
    assert_refused(train(tmp_path, photos, *arguments), tmp_path, *words)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.mark.parametrize(("config", "words"), [("{stages", ["not JSON", "line 1"]), ("[1]", ["not a JSON object"])])
def test_arguments_that_are_no_json_object_are_refused(
    photos: Path, config: str, words: list[str], tmp_path: Path
) -> None:
    child = train(tmp_path, photos, "--arch-config", config)
    assert child.process.exitcode == 2
    assert "Traceback" not in child.stderr
    for word in ["--arch-config", *words]:
        assert word in child.stderr


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    assert_refused(
        train(tmp_path, "fashon-mnist"), tmp_path, "there is no fashon-mnist", "fashion-mnist is the nearest"
    )


@pytest.mark.parametrize("option", ["--registry", "--runs"])
def test_a_folder_that_cannot_be_written_is_named_before_the_work(photos: Path, option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    other = "--runs" if option == "--registry" else "--registry"
    for place in ("file", "/proc/nowhere"):
        child = start("train", photos, option, place, other, "there", cwd=tmp_path)
        assert child.wait() == 2
        assert child.stdout == ""
        (line,) = child.stderr.splitlines()
        assert place in line


def test_a_refused_run_leaves_the_stopped_one_before_it(photos: Path, tmp_path: Path) -> None:
    """And what the stopped one cannot go on with is named."""
    child = start("train", photos, *SHORT, "--epochs", "1000", cwd=tmp_path, checkpoint_seconds=0.0)
    checkpoint = tmp_path / "runs" / "photos" / "checkpoint.pt"
    child.wait_until(checkpoint.exists)
    child.signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    shutil.rmtree(tmp_path / "registry")
    assert_refused(train(tmp_path, photos, "--augment", "heavy"), tmp_path, "augment")
    resumed = train(tmp_path, photos, *SHORT[2:4], "--epochs", "999", "--learning-rate", "0.01", "--resume")
    assert_refused(
        resumed, tmp_path, "was another", "epochs was 1000 and is 999", "learning_rate was 0.004 and is 0.01"
    )
    assert "batch_size" not in resumed.stderr
    other = train(tmp_path, photos, *SHORT[2:4], "--epochs", "1000", "--size", "16", "--resume")
    assert_refused(other, tmp_path, "preprocessing.height was 24 and is 16")
    assert checkpoint.exists()


def test_parts_that_share_images_are_refused_and_shown(tmp_path: Path) -> None:
    write_photos(tmp_path / "data" / "train", count=8)
    write_photos(tmp_path / "data" / "test", count=4, seed=1)
    shutil.copy(tmp_path / "data/train/red/0-00.png", tmp_path / "data/test/red/copy.png")
    child = train(tmp_path, "data")
    assert_refused(child, tmp_path, "train/red/0-00.png", "test/red/copy.png", "--allow-leakage", "duplicates.png")
    assert (tmp_path / "runs" / "data" / "duplicates.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_allowed_is_told_by_the_card(tmp_path: Path) -> None:
    """A third of the images unreadable, and an image in two parts."""
    paths = write_photos(tmp_path / "data" / "train")
    for path in paths[1::3]:
        cut(path)
    write_photos(tmp_path / "data" / "test", count=4, seed=1)
    shutil.copy(paths[0], tmp_path / "data/test/blue/copy.png")
    child = train(tmp_path, "data", *SHORT[:4], "--allow-leakage", "--max-unreadable", "0.5")
    assert child.process.exitcode == 0, child.stderr
    card = (Registry(tmp_path / "registry").version(ModelRef("data")).folder / CARD).read_text(encoding="utf-8")
    assert "allowed by" in card
    assert "too good" in card
    assert "the run was allowed to go on" in card
    assert "20 images cannot be read and are left out" in card
    assert "blue/0-01.png" in card


def test_names_of_all_kinds_and_a_few_broken_files_do_not_stop_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "Meine Fotos (1)"
    classes = ("Käse & Brot", "red [fox]", "犬")
    paths = write_photos(folder, classes, suffix="jpg")
    for path in (paths[3], paths[30]):
        cut(path)
    paths[44].write_text("this is text")
    (folder / classes[0] / "notes.txt").write_text("this too")
    child = train(tmp_path, folder, *SHORT[:4])
    assert child.process.exitcode == 0, child.stderr
    said = " ".join(child.stdout.split())
    assert "3 images cannot be read and are left out" in said
    assert "犬/0-04.jpg" in said
    assert "1 .txt" in said
    version = Registry(tmp_path / "registry").version(ModelRef("meine-fotos-1"))
    assert version.manifest.labels == classes
    card = (version.folder / CARD).read_text(encoding="utf-8")
    for path in (paths[3], paths[30], paths[44]):
        assert path.name in card


def test_help_names_every_form_of_data(tmp_path: Path) -> None:
    child = start("train", "--help", cwd=tmp_path, variables={"COLUMNS": "120"})
    assert child.wait() == 0
    for word in ("CSV", "IDX", "zip", "fashion-mnist", "--resume", "--fine-tune", "--allow-leakage"):
        assert word in child.stdout
