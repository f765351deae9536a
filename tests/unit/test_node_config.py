"""node.toml: what it may say, and what a person is told who writes something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.errors import ConfigurationError
from swarm.node.home.config import data_path, external_contract, load_config, missing_data

CONTRACT = "0x00000000000000000000000000000000000000aa"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def fault_of(home: Path, text: str) -> str:
    (home / "node.toml").write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_config(home)
    assert raised.value.exit_status == 2
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_name_is_all_that_must_be_said(home: Path) -> None:
    (home / "node.toml").write_text('name = "St. Mary"')
    config = load_config(home)
    assert config.name == "St. Mary"
    assert config.http.listen == "127.0.0.1:0"
    assert config.network.listen == ("/ip4/127.0.0.1/tcp/0",)
    assert data_path(home, config) is None
    assert external_contract(config) is None


def test_relative_data_starts_at_the_nodes_directory(home: Path) -> None:
    (home / "rows.csv").write_text("a\n1\n")
    (home / "node.toml").write_text('name = "x"\n[data]\npath = "rows.csv"')
    assert data_path(home, load_config(home)) == home / "rows.csv"


def test_data_that_are_not_there_are_named_and_keep_no_node_from_starting(home: Path) -> None:
    (home / "node.toml").write_text('name = "x"\n[data]\npath = "gone.csv"\nread = ["weights"]')
    config = load_config(home)
    rows, weights = missing_data(home, config)
    assert f"`data.path` in {home}/node.toml names {home}/gone.csv, which does not exist" in rows
    assert "`data.read`" in weights
    for name in ("gone.csv", "weights"):
        (home / name).write_text("a")
    assert missing_data(home, config) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('nam = "x"', "unknown key `nam`"),
        ('name = "x"\n[network]\nlistn = []', "unknown key `network.listn`"),
        ('name = "x"\n[chains]\n', "unknown key `chains`"),
        ("name = 3", "`name`: expected `str`, got `int`"),
        ('name = ""', "`name`: expected `str` of length >= 1"),
        ('name = "x"\n[network]\nlisten = [3]', "`network.listen[0]`: expected `str`, got `int`"),
        ('name = "x"\n[training]\nmax_samples = 0', "`training.max_samples`"),
        ('name = "x"\n[training]\nseed = -1', "`training.seed`"),
        ('name = "x"\n[network]\nlisten = ["nowhere"]', "`network.listen`: 'nowhere' cannot"),
        ('name = "x"\n[network]\nlisten = ["/ip4/1.2.3.4/tcp/70000"]', "70000"),
        ('name = "x"\n[network]\nlisten = ["/dns4/a_b/tcp/4001"]', "digits, hyphens and dots"),
        ('name = "x"\n[training]\ndevice = "gpu"', "`training.device` is 'gpu'"),
        ('name = "x"\n[training]\nlaunch = "mpirun -n 4"', "torchrun --nproc-per-node=N"),
        ('name = "x"\n[training]\nlaunch = "torchrun --nproc-per-node=0"', "N from 1 to 64"),
        ('name = "x"\n[training]\ndevice = "cuda:"', "`training.device`"),
        ('name = "x"\n[training]\ndevice = ""', "`training.device`"),
        ('name = "x"\n[network.peers]\nbasel = ["basel:4001"]', "`network.peers.basel`"),
        ('name = "x"\n[http]\nlisten = "8545"', "`http.listen`: '8545' cannot"),
        ('name = "x"\n[chain]\nrpc_url = "http://127.0.0.1:1"', "belong together"),
        (f'name = "x"\n[chain]\ncontract = "{CONTRACT}"', "belong together"),
        (f'name = "x"\n[chain]\nrpc_url = "ws://h"\ncontract = "{CONTRACT}"', "http://"),
        ('name = "x"\n[chain]\nrpc_url = "http://h"\ncontract = "0xaa"', "`chain.contract`"),
        ('name = "x"\n[chain]\nfinality = "soon"', "`chain.finality`"),
        ('name = "x" oops', "line 1"),
        ("#" * 70_000, "larger than"),
    ],
)
def test_a_fault_is_named_with_its_key(home: Path, text: str, words: str) -> None:
    said = fault_of(home, text)
    assert words in said
    assert str(home / "node.toml") in said


@pytest.mark.parametrize(
    "launch", ["", "torchrun --nproc-per-node=4", "torchrun --nproc_per_node 4"]
)
def test_torchruns_command_says_in_how_many_processes_a_site_trains(
    home: Path, launch: str
) -> None:
    (home / "node.toml").write_text(f'name = "x"\n[training]\nlaunch = "{launch}"')
    assert load_config(home).training.processes == (4 if launch else 1)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps", "xpu:0"])
def test_a_device_that_torch_may_have_is_taken(home: Path, device: str) -> None:
    (home / "node.toml").write_text(f'name = "x"\n[training]\ndevice = "{device}"')
    assert load_config(home).training.device == device


def test_a_directory_without_a_node_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="swarm init"):
        load_config(tmp_path)


def test_text_that_is_no_utf8_is_refused(home: Path) -> None:
    (home / "node.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigurationError, match=r"node\.toml"):
        load_config(home)
