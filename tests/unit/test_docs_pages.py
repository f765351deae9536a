"""The documentation: generated parts are fresh, links lead somewhere, and every command exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from swarm.cli import main as swarm_command

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_what_the_code_gives(generate):
    stale = [path.name for path, text in generate.pages().items() if path.read_text() != text]
    assert not stale, f"run `python docs/generate.py`: {stale}"


def test_every_generated_part_is_used_by_a_page_and_none_is_empty(generate):
    used = {m[2] for p in DOCS.glob("*.md") for m in generate.MARKED.finditer(p.read_text())}
    assert used == set(generate.PARTS)
    for name, part in generate.PARTS.items():
        assert part().count("\n") > 3, name


def test_every_transaction_of_the_contract_is_documented(generate):
    text = generate.transactions()
    views = ("view", "pure")
    for entry in generate.abi("function"):
        if entry["stateMutability"] not in views:
            assert f"`{entry['name']}`" in text, entry["name"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_that_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.split("#")[0]).exists(), target


def commands(page: Path) -> list[list[str]]:
    """The command lines of swarm in a page's console blocks, as lists of words."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                words = shlex.split(line[2:], comments=True)
                while "swarm" in words:
                    words = words[words.index("swarm") + 1 :]
                    if words and words[0] != "/bin/activate":
                        found.append(words[: words.index("&&")] if "&&" in words else words)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_the_pages_exists_with_its_options(page):
    for words in commands(page):
        command: click.Command = swarm_command
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            command = command.get_command(click.Context(command), words[0])
            assert command is not None, words
            words = words[1:]
        known = {option for p in command.params for option in p.opts} | {"--help"}
        unknown = {w.split("=")[0] for w in words if w.startswith("--")} - known
        assert not unknown, f"{command.name}: {unknown}"


def test_the_pages_have_commands_to_check():
    assert sum(len(commands(page)) for page in PAGES) > 40


def test_the_decisions_are_listed():
    listed = (DOCS / "decisions" / "README.md").read_text()
    for page in DOCS.glob("decisions/0*.md"):
        assert f"({page.name})" in listed, page.name


def test_the_readme_has_the_two_commands_of_a_newcomer():
    text = (ROOT / "README.md").read_text()
    assert "pip install . && swarm testnet run examples/heart" in text
    assert "pip install '.[test]' && pytest" in text


def test_the_table_of_results_is_that_of_the_examples():
    numbers = re.compile(r"\| (\.\d{3}) \| \*\*(\.\d{3})\*\* \| (\.\d{3}) \|")
    of_readme = numbers.findall((ROOT / "README.md").read_text())
    assert len(of_readme) == 3
    assert of_readme == numbers.findall((ROOT / "examples" / "README.md").read_text())
