"""The second person's word: before a node consents, somebody else has confirmed the plan.

`policy.confirmers` names accounts of other people. One of them signs a sentence that names the
institution, the plan and its code (EIP-191, as wallets sign text), with a key that the node never
holds. The signature is kept beside the node's own files, and checked again at each start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_hash.auto import keccak

from swarm.errors import UNREADABLE, ConfigurationError
from swarm.protocol.state import Plan
from swarm.types import Address, PlanId, to_address, to_hex

SIGNATURE_BYTES = 65
MAX_FILE_BYTES = 64 * 1024


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    signatures: list[str]


_kept = msgspec.json.Decoder(_Kept)


def sentence_of(plan: Plan, institution: str, contract: Address, chain_id: int) -> str:
    """What is signed: it names everything that the node's consent would be to."""
    rules = keccak(msgspec.json.encode(plan.rules, order="sorted"))
    return (
        f"I confirm that {institution} takes part in plan {plan.id} ({plan.name}) of the "
        f"consortium {to_hex(contract)} on chain {chain_id}. Code {to_hex(plan.digest)}, stages "
        f"{to_hex(plan.program)}, first model {to_hex(plan.base)}, rules {to_hex(rules)}."
    )


def sign(sentence: str, secret: bytes) -> str:
    """A signature of the sentence in hex, as wallets give it."""
    signed = Account.sign_message(encode_defunct(text=sentence), secret)
    return to_hex(bytes(signed.signature))


def signer_of(sentence: str, signature: str) -> Address:
    """Whose signature it is. Raises ConfigurationError if it is none."""
    try:
        raw = bytes.fromhex(signature.removeprefix("0x"))
        if len(raw) != SIGNATURE_BYTES:
            raise ValueError(f"it has {len(raw)} bytes")
        return to_address(Account.recover_message(encode_defunct(text=sentence), signature=raw))
    except Exception as error:  # noqa: BLE001 (the library raises whatever its parts raise)
        raise ConfigurationError(
            f"{signature[:140]!r} is no signature of 65 bytes in hex ({error}): sign the sentence "
            "that `swarm plan confirm` prints"
        ) from None


@dataclass(frozen=True)
class Confirmations:
    """One node's. `confirmers` may confirm, `own` is the node's account, which may not."""

    folder: Path
    confirmers: Sequence[str]
    own: Address
    institution: str
    contract: Address
    chain_id: int

    def sentence(self, plan: Plan) -> str:
        return sentence_of(plan, self.institution, self.contract, self.chain_id)

    def add(self, plan: Plan, signature: str) -> Address:
        """Keep a confirmation; whose it is. Raises ConfigurationError if that is nobody who may."""
        signer = signer_of(self.sentence(plan), signature)
        if signer not in self._accounts:
            raise ConfigurationError(
                f"this is signed by {to_hex(signer)}, which `policy.confirmers` in node.toml does "
                f"not name, or it is not of this sentence: {self.sentence(plan)}"
            )
        if signer == self.own:
            raise ConfigurationError(
                f"{to_hex(signer)} is this node's own account: another person confirms, with a key "
                "of their own"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._path(plan.id).with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(msgspec.json.encode(_Kept([signature])))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path(plan.id))
        return signer

    def missing(self, plan: Plan) -> list[str]:
        """Why this node may not consent yet, as a sentence, or nothing."""
        if not self.confirmers or self._is_confirmed(plan):
            return []
        return [
            f"`policy.confirmers` in node.toml asks for a second person's word on plan {plan.id}: "
            f"let one of {', '.join(self.confirmers)} run `swarm plan confirm {plan.id}`"
        ]

    @property
    def _accounts(self) -> set[Address]:
        return {to_address(account) for account in self.confirmers}

    def _is_confirmed(self, plan: Plan) -> bool:
        try:
            with self._path(plan.id).open("rb") as file:
                kept = _kept.decode(file.read(MAX_FILE_BYTES))
        except (OSError, *UNREADABLE):
            return False
        for signature in kept.signatures:
            try:
                signer = signer_of(self.sentence(plan), signature)
            except ConfigurationError:
                continue
            if signer in self._accounts and signer != self.own:
                return True
        return False

    def _path(self, plan: PlanId) -> Path:
        return self.folder / f"plan-{plan}.json"
