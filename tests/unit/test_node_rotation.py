"""A node's next key takes the place of the one in use, whenever that is interrupted."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from swarm.chain.service import VOTE_KEY
from swarm.chain.store import VoteStore
from swarm.cli import main as swarm
from swarm.errors import ConfigurationError, LocalError
from swarm.node.commands.account import require_own
from swarm.node.commands.control import only_node_in
from swarm.node.home.config import load_config
from swarm.node.home.keys import address_in, address_of
from swarm.node.home.password import ACCOUNT_KEY, NEXT_KEY, find_passwords, open_key, open_with
from swarm.node.home.rotation import make_next_key, next_address, take_next_key
from swarm.node.home.setup import create_node
from swarm.node.wiring import MASKED
from swarm.protocol.state import Member
from swarm.rounds.masked_secrets import UPDATE, MaskedSecrets
from swarm.types import NO_ADDRESS, Address, Digest, MemberId, PlanId


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_node(tmp_path / "mary", "St. Mary", password=None)
    return tmp_path / "mary"


def test_a_next_key_is_made_once_and_named_without_its_password(home: Path) -> None:
    config = load_config(home)
    assert next_address(home) is None
    secret = make_next_key(home, config, None)
    assert make_next_key(home, config, None) == secret
    assert next_address(home) == address_of(secret)
    assert open_key(home, config) != secret


def test_the_first_rotation_keeps_the_old_key_as_the_accounts(home: Path) -> None:
    config = load_config(home)
    old, secret = open_key(home, config), make_next_key(home, config, None)
    take_next_key(home, config, governs=True)
    assert open_key(home, config) == secret
    assert open_with(home / ACCOUNT_KEY, find_passwords(home, config, None)) == old
    assert not (home / NEXT_KEY).exists()


def test_a_later_rotation_deletes_the_old_key_and_leaves_the_accounts(home: Path) -> None:
    config = load_config(home)
    account = open_key(home, config)
    for governs in (True, False):
        make_next_key(home, config, None)
        take_next_key(home, config, governs=governs)
    assert address_in(home / ACCOUNT_KEY) == address_of(account)
    assert sorted(path.name for path in home.glob("*key*.json")) == ["key.json"]


def test_a_rotation_that_was_killed_between_its_two_steps_is_completed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(home)
    old, secret = open_key(home, config), make_next_key(home, config, None)
    with monkeypatch.context() as killing:

        def killed(self: Path, target: Path) -> None:
            raise KeyboardInterrupt

        killing.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            take_next_key(home, config, governs=True)
    assert open_key(home, config) == old  # the node starts, and looks again
    take_next_key(home, config, governs=True)
    assert open_key(home, config) == secret
    assert address_in(home / ACCOUNT_KEY) == address_of(old)


def finish(home: Path, *words: str) -> Result:
    return CliRunner().invoke(swarm, ["node", "rotate", str(home), "--finish", *words])


def test_a_stopped_node_takes_the_key_that_the_others_have_already_and_forgets_its_votes(
    home: Path,
) -> None:
    config = load_config(home)
    old, secret = open_key(home, config), make_next_key(home, config, None)
    with closing(VoteStore(home / "chain" / "votes.db")) as votes:
        votes.put(VOTE_KEY, b"what the old key has voted")
    done = finish(home)
    assert done.exit_code == 0, done.output
    assert "has its new key" in done.output
    assert open_key(home, config) == secret
    assert address_in(home / ACCOUNT_KEY) == address_of(old)
    with closing(VoteStore(home / "chain" / "votes.db")) as votes:
        assert votes.get(VOTE_KEY) is None
    again = finish(home)
    assert again.exit_code != 0
    assert "no other key waits" in again.output


def test_a_new_key_in_the_middle_of_a_masked_round_loses_and_repeats_nothing(home: Path) -> None:
    config, plan, base = load_config(home), PlanId(1), Digest(b"b" * 32)
    before = MaskedSecrets(home / MASKED, open_key(home, config))
    before.attempt(plan, 3, 1).put("secret", b"what masks this attempt")
    before.update(plan, 3, base).put(UPDATE, b"what was trained")
    public = before.new_receiving_key(plan)
    shares_of = before.receiving_secret(plan, public)
    assert before.may_open(base, 0, 0b0111, None)
    make_next_key(home, config, None)
    assert finish(home).exit_code == 0
    now = MaskedSecrets(home / MASKED, open_key(home, config))
    assert now.attempt(plan, 3, 1).get("secret") == b"what masks this attempt"
    assert now.update(plan, 3, base).get(UPDATE) == b"what was trained"
    assert now.receiving_secret(plan, public) == shares_of
    assert now.may_open(base, 0, 0b0111, None)
    assert not now.may_open(base, 0, 0b1011, None)
    assert now.may_open(Digest(b"c" * 32), 0, 0b1011, None)
    with pytest.raises(LocalError):
        now.attempt(plan, 3, 1).put("secret", b"another")


@pytest.mark.parametrize("damaged", ["key.json", NEXT_KEY])
def test_a_key_that_does_not_open_is_not_made_the_nodes_or_the_accounts(
    home: Path, damaged: str
) -> None:
    make_next_key(home, load_config(home), None)
    (home / damaged).write_text((home / damaged).read_text()[:40])
    before = {path.name: path.read_bytes() for path in home.glob("*.json")}
    refused = finish(home)
    assert refused.exit_code != 0
    assert damaged in refused.output
    assert {path.name: path.read_bytes() for path in home.glob("*.json")} == before


def test_a_running_nodes_key_is_not_taken_from_it(home: Path) -> None:
    make_next_key(home, load_config(home), None)
    with only_node_in(home):
        refused = finish(home)
    assert refused.exit_code != 0
    assert next_address(home) is not None


def test_without_a_next_key_nothing_is_taken(home: Path) -> None:
    before = (home / "key.json").read_bytes()
    with pytest.raises(ConfigurationError, match=r"next-key\.json does not exist: no other key"):
        take_next_key(home, load_config(home), governs=True)
    assert (home / "key.json").read_bytes() == before
    assert not (home / ACCOUNT_KEY).exists()


def test_an_account_gives_a_new_key_to_the_node_alone_that_it_has_named(tmp_path: Path) -> None:
    own, standby, others = (Address(bytes([n]) * 20) for n in (1, 2, 3))
    mary = Member(MemberId(0), Address(bytes([9]) * 20), own, "St. Mary", standby=standby)
    require_own(tmp_path, mary, mary.node, (own, None))
    require_own(tmp_path, mary, mary.standby, (standby,))
    for named, keys in ((mary.node, (others, None)), (mary.standby, (others,))):
        with pytest.raises(
            ConfigurationError, match=r"St\. Mary, which has named 0x0[12].*--account"
        ):
            require_own(tmp_path, mary, named, keys)
    with pytest.raises(ConfigurationError, match="has named no standby"):
        require_own(tmp_path, mary, NO_ADDRESS, (others,))
