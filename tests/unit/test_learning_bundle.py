"""A plan's code as bytes with one digest."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import PlanError, ProtocolViolation
from swarm.learning.code import bundle
from swarm.learning.code.bundle import Bundle, read, unpack
from swarm.network import NetworkLimits


def plan_folder(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.py").write_text("print('plan')\n")
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_the_digest_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    one, two = plan_folder(tmp_path / "a"), plan_folder(tmp_path / "b")
    assert read(one).digest == read(two).digest
    (two / "plan.py").write_text("print('other')\n")
    assert read(one).digest != read(two).digest


def test_the_digest_is_pinned() -> None:
    digest = Bundle({"plan.py": b"x = 1\n", "features.py": b""}).digest
    assert digest.hex() == "2c863ae9eea179b72a4af1740d8b8cd507edb0c114f2cff847067e8fe0377042"


def test_moving_bytes_between_name_and_content_changes_the_digest() -> None:
    assert Bundle({"a.py": b"b"}).digest != Bundle({"a.pyb": b""}).digest


def test_data_and_the_testnets_sites_are_no_part_of_the_plan(tmp_path: Path) -> None:
    folder = plan_folder(tmp_path / "a")
    before = read(folder).digest
    (folder / "data").mkdir()
    (folder / "data" / "x.py").write_text("1")
    (folder / "sites.toml").write_text("peers = 2")
    (folder / "rows.csv").write_text("a,b")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "plan.py").write_text("1")
    assert read(folder).digest == before


def test_one_file_is_a_plan_whatever_its_name(tmp_path: Path) -> None:
    folder = plan_folder(tmp_path / "a")
    alone = tmp_path / "heart.py"
    alone.write_bytes((folder / "plan.py").read_bytes())
    assert read(alone).digest == read(folder).digest


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"holds no plan\.py"):
        read(tmp_path)
    with pytest.raises(PlanError, match="is no plan"):
        read(tmp_path / "nowhere")


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    folder = plan_folder(tmp_path / "a")
    (tmp_path / "secret.py").write_text("1")
    (folder / "link.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(PlanError, match="leaves the plan's folder"):
        read(folder)


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    folder = plan_folder(tmp_path / "a")
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(PlanError, match="link to a folder"):
        read(folder)


def test_too_much_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plan_folder(tmp_path / "a", **{"big.json": "x" * 100})
    for bound in (50, 120):  # of the contents, and of what travels
        monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", bound)
        with pytest.raises(PlanError, match=f"more than {bound}, so it cannot be sent"):
            read(folder)


def test_the_largest_bundle_fits_into_one_answer() -> None:
    assert NetworkLimits().max_payload_bytes >= bundle.MAX_BUNDLE_BYTES


HIDING = {
    "a carriage return": "open('x')\r# standardise first   \n",
    "an escape sequence": "x = 1  # \x1b[1A\x1b[2K\n",
    "bidirectional text": "level = 'user\u202e \u2066# admin\u2069 \u2066'\n",
    "a character of no width": "is_admin\u200b = 1\n",
    "a letter without ink": "\u3164 = 1\n",
    "a line separator": "x = 1  # \u2028import os\n",
    "a byte order mark": "\ufeffx = 1\n",
    "a null": "x = 1\0\n",
}


@pytest.mark.parametrize("content", HIDING.values(), ids=HIDING.keys())
def test_what_its_readers_would_not_see_is_refused_with_file_and_line(
    tmp_path: Path, content: str
) -> None:
    folder = plan_folder(tmp_path / "a")
    (folder / "helper.py").write_bytes(b"y = 2\n" + content.encode())
    with pytest.raises(PlanError, match=r"hides something.*helper\.py, line 2"):
        read(folder)
    packed = msgspec.msgpack.encode({"files": {"plan.py": content.encode()}})
    with pytest.raises(ProtocolViolation, match=r"plan\.py, line 1"):
        unpack(packed)


@pytest.mark.parametrize(
    "first",
    [
        "# coding: utf-7",
        "#!/usr/bin/python\n# -*- coding: latin-1 -*-",
        "# vim: set fileencoding=cp500 :",
    ],
)
def test_code_that_python_would_read_otherwise_is_refused(tmp_path: Path, first: str) -> None:
    folder = plan_folder(tmp_path / "a")
    (folder / "helper.py").write_text(first + "\n")
    with pytest.raises(PlanError, match=r"declares the encoding .* in helper\.py"):
        read(folder)
    (folder / "helper.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(PlanError, match=r"not UTF-8 in helper\.py, line 1"):
        read(folder)


def test_tabs_windows_line_ends_accents_and_utf8_cookies_are_welcome(tmp_path: Path) -> None:
    folder = plan_folder(tmp_path / "a")
    (folder / "a.py").write_bytes(
        "# -*- coding: UTF-8 -*-\r\nif 1:\r\n\tx = 'Charité 東京'\r\n".encode()
    )
    assert "a.py" in read(folder).files


def test_a_packed_bundle_comes_back_the_same(tmp_path: Path) -> None:
    found = read(plan_folder(tmp_path / "a", **{"features.py": "def f(): ..."}))
    received = unpack(found.pack())
    assert received.digest == found.digest
    received.write(tmp_path / "b")
    assert read(tmp_path / "b").digest == found.digest


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "/etc/evil.py",
        "a/../../evil.py",
        "a//b.py",
        "C:/x.py",
        "a\\..\\b.py",
        "x.so",
        "",
        ".",
        "a\nb.py",
    ],
)
def test_a_name_outside_the_folder_is_refused(name: str) -> None:
    packed = msgspec.msgpack.encode({"files": {"plan.py": b"", name: b""}})
    with pytest.raises(ProtocolViolation):
        unpack(packed)


def test_a_file_that_is_also_a_folder_is_refused() -> None:
    packed = msgspec.msgpack.encode({"files": {"plan.py": b"", "plan.py/a.py": b""}})
    with pytest.raises(ProtocolViolation, match="both as a file and as a folder"):
        unpack(packed)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_refused(packed: bytes) -> None:
    try:
        unpack(packed)
    except ProtocolViolation:
        return
    raise AssertionError("random bytes made a bundle with a plan.py")
