from pathlib import Path

import pytest

from model.engines.selection import EngineChoice
from service.errors import SettingsError
from service.settings import Settings, load_settings, read_variables, variable_of


def test_nothing_set_means_the_defaults() -> None:
    assert load_settings({"PATH": "/bin", "HUBELINO": "1"}) == Settings()


def test_variables_are_read_and_options_win_over_them() -> None:
    settings = load_settings(
        {"HUBEL_REGISTRY": "/models", "HUBEL_PORT": "9000", "HUBEL_DEVICE": "cuda:1"}, port=7, host=None
    )
    assert (settings.registry, settings.port, settings.device) == ("/models", 7, "cuda:1")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("HUBEL_REGISTY", "did you mean HUBEL_REGISTRY?"),
        ("HUBEL_MAX_BATCH", "did you mean HUBEL_MAX_BATCH_SIZE?"),
        ("HUBEL_registry", "did you mean HUBEL_REGISTRY?"),
        ("HUBEL_XYZZY", "the settings are HUBEL_REGISTRY, "),
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_the_right_one(variable: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({variable: "1"})
    assert str(caught.value).startswith(f"{variable} is not a setting")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HUBEL_PORT", "http"),
        ("HUBEL_PORT", "70000"),
        ("HUBEL_WORKERS", "0"),
        ("HUBEL_ENGINE", "tensorrt"),
        ("HUBEL_DEVICE", "gpu"),
        ("HUBEL_MAX_IMAGE_PIXELS", "0"),
        ("HUBEL_DEFAULT_MODEL", "../x"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable} is '{value}'"):
        load_settings({variable: value})


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"HUBEL_MAX_IMAGES_PER_REQUEST \(64\) is larger than HUBEL_MAX_QUEUE_SIZE \(8\)"
    ):
        load_settings({"HUBEL_MAX_QUEUE_SIZE": "8"})


def test_what_kubernetes_injects_for_a_service_of_our_name_is_passed_over() -> None:
    environment = {
        "HUBEL_PORT": "tcp://10.0.0.1:8000",
        "HUBEL_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "HUBEL_PORT_8000_TCP_ADDR": "10.0.0.1",
        "HUBEL_SERVICE_HOST": "10.0.0.1",
        "HUBEL_SERVICE_PORT_HTTP": "8000",
    }
    assert load_settings(environment) == Settings()


def test_cores_are_divided_by_the_workers() -> None:
    assert Settings(workers=64).share_of_cores == 1
    assert Settings(workers=1).share_of_cores == Settings().cores
    assert Settings(threads=7, workers=2).share_of_cores == 3
    choice = Settings(threads=7, workers=2).engine_choice
    assert [choice.threads_of(engine) for engine in ("onnx", "openvino", "torch")] == [7, 7, 3]


def test_auto_is_a_worker_for_each_core_and_one_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.engines.selection._has_cuda", lambda: False)
    assert [Settings(threads=cores).with_processes().processes for cores in (1, 2, 8, 64)] == [1, 2, 8, 8]
    assert Settings(threads=2, workers=5).with_processes().processes == 5
    assert Settings(threads=2, device="cuda:1").with_processes().processes == 1
    assert Settings(threads=2).processes == 1
    monkeypatch.setattr("model.engines.selection._has_cuda", lambda: True)
    assert Settings(threads=4).with_processes().processes == 1
    assert Settings(threads=4, engine="onnx").with_processes().processes == 4
    assert Settings(threads=4, device="cpu").with_processes().processes == 4


OPEN_WITHOUT = ("api_keys", "api_keys_file", "metrics_key")


def test_the_engine_is_chosen_as_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(engine="openvino", device="cpu", threads=3, measure_engines=False, cache=tmp_path)
    assert settings.engine_choice == EngineChoice("openvino", "cpu", 3, measure=False, cache=tmp_path, share=3)
    assert Settings().engine_choice.measure


def test_every_setting_is_described_and_has_its_variable() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if name not in OPEN_WITHOUT:
            assert load_settings({variable_of(name): "" if field.default is None else str(field.default)}) == Settings()


def test_what_is_empty_by_mistake_opens_nothing() -> None:
    assert load_settings({"HUBEL_API_KEYS": ""}).asks_for_keys
    for variable in ("HUBEL_API_KEYS_FILE", "HUBEL_METRICS_KEY"):
        with pytest.raises(SettingsError, match=rf"{variable} is .*would let everybody in"):
            load_settings({variable: ""})


def test_the_key_that_a_client_sends_is_no_setting_of_the_service() -> None:
    assert read_variables({"HUBEL_CLIENT_KEY": "hubel_secret"}) == {}


def test_keys_are_never_repeated() -> None:
    for variable in ("HUBEL_ADMIN_KEY", "HUBEL_METRICS_KEY"):
        with pytest.raises(SettingsError) as refused:
            load_settings({variable: "too-short"})
        assert "too-short" not in str(refused.value)
    shown = repr(load_settings({"HUBEL_API_KEYS": "phone predict sha256:abc", "HUBEL_METRICS_KEY": "m" * 16}))
    assert "phone" not in shown
    assert "mmm" not in shown
