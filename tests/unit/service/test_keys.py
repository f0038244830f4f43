"""API keys: lines, rings, and a file that changes."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SettingsError
from service.keys import Key, KeyRing, KeyStore, Role, check_keys, make_key, read_keys
from service.settings import Settings

DIGEST = "ab" * 32
SECRET_LOOKING = "hubel_pasted-by-mistake"
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,63}", fullmatch=True)
KEYS = st.builds(
    Key,
    NAMES,
    st.sampled_from([Role.PREDICT, Role.ADMIN]),
    st.binary(min_size=32, max_size=32),
    st.none() | st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000),
    st.none() | st.integers(0, 9_999_999),
)


@given(key=KEYS)
def test_a_key_is_read_as_it_was_written(key: Key) -> None:
    assert Key.parse(str(key)) == key
    assert read_keys(f"# all of them\n\n  {key}  # the first\n", "file") == [key]


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(SettingsError):
        for key in read_keys(text, "file"):
            assert Key.parse(str(key)) == key


@pytest.mark.parametrize(
    "line",
    [
        SECRET_LOOKING,
        f"{SECRET_LOOKING} predict",
        f"phone {SECRET_LOOKING} sha256:{DIGEST}",
        f"phone metrics sha256:{DIGEST}",
        f"phone predict {SECRET_LOOKING}",
        f"phone predict sha256:{SECRET_LOOKING}",
        f"phone predict {DIGEST}",
        f"phone predict sha256:{DIGEST}ab",
        f"phone predict sha256:{DIGEST.upper()}",
        f"phöne predict sha256:{DIGEST}",
        f"1 predict sha256:{DIGEST}",
        f"phone predict sha256:{DIGEST} {SECRET_LOOKING}",
        f"phone predict sha256:{DIGEST} requests_per_second=-1",
        f"phone predict sha256:{DIGEST} requests_per_second=nan",
        f"phone predict sha256:{DIGEST} requests_per_second=1e9",
        f"phone predict sha256:{DIGEST} requests_per_second=٣",
        f"phone predict sha256:{DIGEST} concurrent_requests=1.5",
        f"phone predict sha256:{DIGEST} concurrent_requests=1 concurrent_requests=2",
        f"phone predict sha256:{DIGEST} burst=3",
    ],
)
def test_a_line_that_is_not_one_is_refused_by_its_number_without_repeating_it(line: str) -> None:
    with pytest.raises(SettingsError, match=r"keys\.txt, line 3: ") as refused:
        read_keys(f"# keys\n\n{line}\n", "keys.txt")
    assert SECRET_LOOKING not in str(refused.value)
    assert DIGEST not in str(refused.value)


def test_a_new_key_is_long_and_random_and_kept_by_its_digest_alone() -> None:
    secrets, keys = zip(*(make_key("phone", Role.PREDICT) for _ in range(20)), strict=True)
    assert len(set(secrets)) == 20
    for secret, key in zip(secrets, keys, strict=True):
        assert len(secret) == len("hubel_") + 43
        assert KeyRing([key]).find(secret.encode()) is key
        assert secret not in f"{key} {key!r}"


@given(keys=st.lists(KEYS, max_size=5), given_secret=st.binary(max_size=60))
def test_a_ring_finds_a_key_by_its_own_secret_only(keys: list[Key], given_secret: bytes) -> None:
    secret, key = make_key("the-one", Role.PREDICT)
    others = list({other.name: other for other in keys if other.name != key.name}.values())
    others = list({other.digest: other for other in others}.values())
    ring = KeyRing([*others, key])
    assert ring.find(secret.encode()) is key
    assert ring.find(given_secret) is None
    for wrong in (secret[:-1], secret + "x", secret.upper(), str(key), key.digest.hex()):
        assert ring.find(wrong.encode()) is None


def test_a_key_whose_digest_only_begins_alike_is_not_found() -> None:
    secret, key = make_key("phone", Role.PREDICT)
    other = Key("other", Role.ADMIN, key.digest[:8] + bytes(24))
    assert KeyRing([other]).find(secret.encode()) is None


def test_two_of_one_name_or_one_secret_are_refused() -> None:
    _, key = make_key("phone", Role.PREDICT)
    _, namesake = make_key("phone", Role.ADMIN)
    with pytest.raises(ValueError, match="two keys of the name 'phone'"):
        KeyRing([key, namesake])
    with pytest.raises(ValueError, match="'phone' and 'twin' are the same key"):
        KeyRing([key, Key("twin", Role.ADMIN, key.digest)])


# ---- what the settings name


def settings(**values: object) -> Settings:
    return Settings.model_validate(values)


def test_keys_come_from_the_settings_the_environment_and_the_file(tmp_path: Path) -> None:
    made = {name: make_key(name, Role.PREDICT) for name in ("phone", "desk")}
    file = tmp_path / "keys"
    file.write_text(f"{made['desk'][1]}\n")
    store = KeyStore.of(
        settings(admin_key="a" * 16, metrics_key="m" * 16, api_keys=f"{made['phone'][1]}\n", api_keys_file=file)
    )
    found = {key.name: key.role for key in store.ring}
    assert found == {
        "admin": Role.ADMIN,
        "metrics": Role.METRICS,
        "phone": Role.PREDICT,
        "desk": Role.PREDICT,
    }
    for secret, name in (("a" * 16, "admin"), ("m" * 16, "metrics"), (made["phone"][0], "phone")):
        key = store.ring.find(secret.encode())
        assert key is not None
        assert key.name == name


def test_a_name_that_the_settings_have_taken_is_refused() -> None:
    _, key = make_key("admin", Role.PREDICT)
    with pytest.raises(SettingsError, match="two keys of the name 'admin'"):
        KeyStore.of(settings(admin_key="a" * 16, api_keys=str(key)))


@pytest.mark.parametrize("content", [None, b"phone", b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_stops_the_start_and_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=str(file)):
        check_keys(settings(api_keys_file=file))
    with pytest.raises(SettingsError, match="HUBEL_API_KEYS, line 1"):
        check_keys(settings(api_keys="phone"))


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "hubel.example"}, True),
        ({"host": "0.0.0.0", "admin_key": "a" * 16}, True),
        ({"host": "0.0.0.0", "api_keys": f"phone predict sha256:{DIGEST}"}, False),
    ],
)
def test_an_open_service_on_an_open_address_is_warned_of(
    values: dict[str, str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    check_keys(settings(**values))
    assert ("may ask for predictions" in caplog.text) == warned


# ---- a file that changes


def names(store: KeyStore) -> set[str]:
    return {key.name for key in store.ring}


def test_a_change_of_the_file_is_followed_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, phone = make_key("phone", Role.PREDICT)
    _, desk = make_key("desk", Role.PREDICT)
    file = tmp_path / "keys"
    file.write_text(f"{phone}\n")
    told: list[bool] = []
    store = KeyStore([], file, told.append)
    ring = store.ring
    store.refresh()
    assert (store.ring, told) == (ring, [True])  # the same one: nothing has changed

    file.write_text(f"{phone}\n{desk}\n")
    store.refresh()
    assert names(store) == {"phone", "desk"}

    for broken in (f"{phone}\n{desk}\n{SECRET_LOOKING}\n", None, "", f"{phone}\n{phone}\n"):
        file.unlink(missing_ok=True)
        if broken is not None:
            file.write_text(broken)
        store.refresh()
        store.refresh()
        assert names(store) == {"phone", "desk"}
        assert str(file) in store.fault
        assert caplog.text.count("the keys stay as they were") == 1
        assert not told[-1]
        assert SECRET_LOOKING not in caplog.text
        caplog.clear()

    file.write_text("# nobody\n")
    store.refresh()
    assert (names(store), store.fault, told[-1]) == (set(), "", True)
    assert store.ring.find(secret.encode()) is None


def test_a_file_that_comes_back_as_it_was_is_well_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"phone predict sha256:{DIGEST}\n")
    store = KeyStore([], file)
    away = file.rename(tmp_path / "away")
    store.refresh()
    assert "cannot be read" in store.fault
    away.rename(file)
    store.refresh()
    assert (names(store), store.fault) == ({"phone"}, "")


def test_another_file_behind_a_link_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"{name} predict sha256:{DIGEST}\n")
        os.utime(tmp_path / name, (1, 1))
    link = tmp_path / "keys"
    link.symlink_to("one")
    store = KeyStore([], link)
    link.unlink()
    link.symlink_to("two")
    store.refresh()
    assert names(store) == {"two"}
