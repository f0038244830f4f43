"""`hubel keys`: a file of keys is made, read and changed, and never left half written."""

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hubel import build
from service.errors import SettingsError
from service.keys import KeyRing, KeyStore, Role, read_keys


def keys(*arguments: str | Path, **variables: str) -> Result:
    """Run a command of `hubel keys`."""
    result = CliRunner().invoke(build(), ["keys", *map(str, arguments)], env={"HUBEL_API_KEYS_FILE": None, **variables})
    if isinstance(result.exception, SettingsError):
        raise result.exception
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


def names(file: Path) -> list[str]:
    return [key.name for key in read_keys(file.read_text(), str(file))]


def test_a_new_key_is_shown_once_and_its_digest_kept(file: Path) -> None:
    options = ("--role", "admin", "--requests-per-second", "0.5", "--concurrent-requests", "3")
    result = keys("new", "phone", "--file", file, *options)
    secret = result.stdout.strip()
    (key,) = read_keys(file.read_text(), str(file))
    assert KeyRing([key]).find(secret.encode()) is key
    assert (key.name, key.role, key.requests_per_second, key.concurrent_requests) == ("phone", Role.ADMIN, 0.5, 3)
    assert secret not in file.read_text() + result.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_file_the_line_is_printed(tmp_path: Path) -> None:
    secret, line = keys("new", "phone").stdout.splitlines()
    assert KeyRing(read_keys(line, "")).find(secret.encode())


def test_the_variable_of_the_service_names_the_file(file: Path) -> None:
    keys("new", "phone", HUBEL_API_KEYS_FILE=str(file))
    assert "phone" in keys("list", HUBEL_API_KEYS_FILE=str(file)).stdout


def test_a_key_is_removed_and_all_else_stays(file: Path) -> None:
    for name in ("phone", "desk", "phone-2"):
        keys("new", name, "--file", file)
    file.write_text(file.read_text().replace("desk", "# of the kiosk\ndesk") + "# the end")
    before = file.read_text().splitlines()
    keys("remove", "phone", "--file", file)
    assert file.read_text().splitlines() == [line for line in before if not line.startswith("phone ")]
    with pytest.raises(SettingsError, match="no key of the name 'phone'"):
        keys("remove", "phone", "--file", file)


def test_the_last_key_of_a_file_without_a_comment_is_refused_once_it_is_removed(file: Path) -> None:
    file.write_text(keys("new", "phone").stdout.splitlines()[1])
    store = KeyStore([], file)
    keys("remove", "phone", "--file", file)
    store.refresh()
    assert not list(store.ring)


def test_the_list_shows_no_digest(file: Path) -> None:
    keys("new", "phone", "--file", file, "--requests-per-second", "5", "--concurrent-requests", "0")
    shown = keys("list", "--file", file).stdout
    assert re.search(r"phone +predict +5 +no limit", shown)
    assert read_keys(file.read_text(), "")[0].digest.hex()[:8] not in shown


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_who_may_read_a_file_that_is_there_is_kept_but_for_strangers(mode: int, file: Path) -> None:
    file.touch()
    file.chmod(mode)
    keys("new", "phone", "--file", file)
    assert stat.S_IMODE(file.stat().st_mode) == mode & 0o640


def test_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    file.symlink_to("there/keys.txt")
    keys("new", "phone", "--file", file)
    assert file.is_symlink()
    assert names(tmp_path / "there" / "keys.txt") == ["phone"]


def test_what_would_not_be_understood_is_not_written(file: Path, tmp_path: Path) -> None:
    keys("new", "phone", "--file", file)
    before = file.read_text()
    with pytest.raises(SettingsError, match="two keys of the name 'phone'"):
        keys("new", "phone", "--file", file)
    for arguments in (["a b"], ["x", "--role", "metrics"], ["x", "--requests-per-second", "nan"], ["-1"], ["x" * 65]):
        assert keys("new", *arguments, "--file", file).exit_code == 2
    assert file.read_text() == before
    file.write_text(f"{before}oops\n")
    with pytest.raises(SettingsError, match="line 3"):
        keys("new", "desk", "--file", file)
    assert [path.name for path in tmp_path.iterdir()] == ["keys.txt"]


def test_a_file_that_cannot_be_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written"):
        keys("new", "phone", "--file", tmp_path / "nowhere" / "keys.txt")
    with pytest.raises(SettingsError, match="cannot be read"):
        keys("list", "--file", tmp_path / "keys.txt")


def test_many_who_make_keys_at_once_lose_none(file: Path) -> None:
    from service.commands.keys import new_key

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: new_key(f"caller-{number}", file=file), range(16)))
    assert sorted(names(file)) == sorted(f"caller-{number}" for number in range(16))


def test_the_lines_that_the_documents_show_are_understood(pytestconfig: pytest.Config) -> None:
    text = (pytestconfig.rootpath / "docs" / "access.md").read_text()
    (block,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert {key.name for key in read_keys(block, "access.md")} == {"phone", "deploy"}
