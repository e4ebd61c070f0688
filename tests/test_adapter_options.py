"""What [storage.options] and its like say, to adapters of other packages."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from signal_manager import adapters
from signal_manager.adapters import Options
from signal_manager.errors import ConfigurationError
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics
from signal_manager.service.backends import bus_for, media_for, storage_for
from signal_manager.service.config import Config, as_json, as_plain, as_toml, load, load_with_origins
from signal_manager.service.preflight import problems
from signal_manager.storage.memory import MemoryStorage


class Login(Options):
    user: str
    password: SecretStr


class Adapter(MemoryStorage):
    """An adapter for every interface, as far as these tests go."""

    class Options(adapters.Options):
        url: str = Field(description="Where it is.")
        size: int = Field(default=10, ge=1)
        token: SecretStr = SecretStr("")
        logins: list[Login] = Field(default_factory=list)
        tags: dict[str, str] = Field(default_factory=dict)

    def __init__(self, *, options: Adapter.Options, **settings: Any) -> None:
        super().__init__()
        self.options = options
        self.settings = settings


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(group: str) -> EntryPoints:
        return EntryPoints([EntryPoint("mine", f"{__name__}:Adapter", group)])

    monkeypatch.setattr(adapters, "entry_points", found)


def configured(text: str, tmp_path: Path, **variables: str) -> Config:
    (tmp_path / "config.toml").write_text(text)
    environ = {f"SIGNAL_MANAGER_{name}": value for name, value in variables.items()}
    return load(environ=environ, directory=tmp_path)


MINE = '[storage]\nbackend = "mine"\n[storage.options]\n'


async def test_an_adapter_is_called_with_its_options_and_what_the_page_names() -> None:
    options = {"url": "x://"}
    config = Config.model_validate(
        {
            "storage": {"backend": "mine", "options": options},
            "bus": {"backend": "mine", "options": options},
            "media": {"backend": "mine", "options": options},
        }
    )
    storage: Any = storage_for(config)
    async with bus_for(config, NodeId("n"), Metrics()) as bus, media_for(config, Metrics()) as media:
        built: list[Any] = [storage, bus, media.backend]

    assert [each.options for each in built] == [Adapter.Options(url="x://")] * 3
    assert [sorted(each.settings) for each in built] == [
        ["operation_timeout"],
        ["metrics", "node_id"],
        ["metrics", "request_timeout"],
    ]


def test_variables_win_over_the_file_option_by_option(tmp_path: Path) -> None:
    text = MINE + 'url = "file://"\nsize = 3\ntags = {a = "b"}'
    both = {"STORAGE_OPTIONS": '{"url": "json://"}', "STORAGE_OPTIONS_TOKEN": "secret"}

    options = configured(text, tmp_path, **both).storage.options

    assert options == {"url": "json://", "size": 3, "tags": {"a": "b"}, "token": "secret"}
    storage: Any = storage_for(configured(text, tmp_path, STORAGE_OPTIONS_SIZE="7"))
    assert storage.options.size == 7


def test_an_option_is_printed_with_where_it_comes_from_unless_it_may_be_secret(tmp_path: Path) -> None:
    text = MINE + 'url = "x://user:hunter2@host"\ntoken = "hunter2"\nlogins = [{user = "a", password = "hunter2"}]'
    (tmp_path / "config.toml").write_text(text + '\ntags = {"a b" = "c"}\nunknown = "hunter2"')

    loaded = load_with_origins(environ={"SIGNAL_MANAGER_STORAGE_OPTIONS_SIZE": "7"}, directory=tmp_path)
    printed = as_toml(loaded.config, origins=loaded.origins)

    assert "hunter2" not in printed + str(as_json(loaded.config, origins=loaded.origins))
    assert 'size = "7"  # SIGNAL_MANAGER_STORAGE_OPTIONS_SIZE' in printed
    assert f'token = "***"  # {tmp_path}/config.toml' in printed
    assert tomllib.loads(printed)["storage"]["options"] == {
        "url": "x://***@host",
        "token": "***",
        "logins": "***",
        "tags": {"a b": "c"},
        "unknown": "***",
        "size": "7",
    }


def test_the_options_of_an_adapter_that_is_not_installed_are_all_hidden() -> None:
    config = Config.model_validate({"bus": {"backend": "gone", "options": {"url": "hunter2"}}})

    assert as_plain(config)["bus"]["options"] == {"url": "***"}


def test_a_worker_gets_the_options_as_they_are() -> None:
    config = Config.model_validate({"bus": {"backend": "mine", "options": {"url": "x://", "token": "hunter2"}}})

    assert Config.model_validate(as_plain(config, hide_secrets=False)) == config


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("", "storage.options.url is missing: Where it is."),
        ('url = "x"\nsiez = 1', 'unknown key "siez" in [storage.options]; did you mean size?'),
        ('url = "x"\nsize = 0', "storage.options.size: expected a number of at least 1, got 0"),
        ('url = "x"\ntoken = 1', "storage.options.token: expected a string, got ***"),
        ('url = "x"\nlogins = [{user = "a"}]', "storage.options.logins.0.password is missing"),
        ('url = "x"\ntags = {a = 1}', "storage.options.tags.a: expected a string, got 1"),
    ],
)
def test_a_wrong_option_is_named_by_check_config_and_by_serve(tmp_path: Path, options: str, problem: str) -> None:
    config = configured(MINE + options, tmp_path)

    assert problem in list(problems(config))
    with pytest.raises(ConfigurationError) as caught:
        storage_for(config)
    assert caught.value.message == problem


def test_all_wrong_options_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        storage_for(configured(MINE + "size = 0\nsiez = 1", tmp_path))

    assert len(caught.value.message.split("; ")) == 4  # one of them has an advice of its own


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[storage.options]\nurl = 1", "storage.backend 'sqlite' takes no options, got url"),
        ("[media.options]\nurl = 1", "media.backend 'auto' takes no options, got url"),
        ("[bus.options]\nurl = 1", "bus.backend 'local' takes no options, got url"),
        ("[storage]\nbackend = 'none'", "storage.backend is 'none', expected one of: firestore, memory, mine, sqlite"),
    ],
)
async def test_our_own_adapters_take_no_options(tmp_path: Path, text: str, problem: str) -> None:
    config = configured(text, tmp_path)

    assert problem in list(problems(config))
    with pytest.raises(ConfigurationError) as caught:
        async with media_for(config, Metrics()), bus_for(config, NodeId("n"), Metrics()):
            storage_for(config)
    assert caught.value.message == problem


@pytest.mark.parametrize("value", ["no json", "[1]", "hunter2"])
def test_options_that_are_no_table_are_named_and_not_shown(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configured("", tmp_path, STORAGE_OPTIONS=value)

    assert caught.value.message == (
        """SIGNAL_MANAGER_STORAGE_OPTIONS: expected a JSON object such as '{"a": 1}', got ***"""
    )
    with pytest.raises(ConfigurationError, match=r"\[storage\] options: expected a table, got \*\*\*"):
        configured("[storage]\noptions = 1", tmp_path)
