"""Names that look alike: spellings of one name have one key, other names have others."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.protocol.names import lookalike_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (unicodedata.normalize("NFC", "Charité"), unicodedata.normalize("NFD", "Charité")),
        ("St. Mary", "ST. MARY"),
        ("Straße", "STRASSE"),
        ("St. Mary", "St.\u00a0Mary"),
        ("St. Mary", "St.  Mary "),
        ("Kyoto", "Ky\u200boto"),
        ("Kyoto", "Kyoto\ufe0f"),
        ("Kyoto", "\u2066Kyoto\u2069"),
        ("Kyoto", "Kyo\u3164to"),
        ("Kyoto", "Ｋｙｏｔｏ"),
        ("Ward 5", "Ward ５"),
        ("ﬁrst", "first"),
        # An accent that an invisible character keeps from its letter.
        ("é", "e\u034f\u0301"),
    ],
)
def test_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert one != other
    assert lookalike_key(one) == lookalike_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("St. Mary", "St. Luke"),
        ("Ward 1", "Ward 2"),
        ("Ward 1", "Ward 11"),
        ("Charite", "Charité"),
        ("St. Mary", "St.Mary"),
        # Other scripts are not compared by their looks, and the function says so.
        ("Kyoto", "Kуоtо"),
    ],
)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert lookalike_key(one) != lookalike_key(other)


@given(st.text(max_size=40))
def test_the_key_of_a_key_is_itself(name: str) -> None:
    assert lookalike_key(lookalike_key(name)) == lookalike_key(name)


@given(st.text(max_size=40), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_no_unicode_form_changes_the_key(name: str, form: str) -> None:
    spelled = unicodedata.normalize(form, name)  # type: ignore[arg-type]
    assert lookalike_key(spelled) == lookalike_key(name)
