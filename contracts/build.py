"""Compile the contracts with the pinned compiler and write the artifact that the package ships.

    npm ci --prefix contracts         once: the compiler, and the chain that tests run against
    python contracts/build.py         rebuild swarm/chain/artifacts/Consortium.json
    python contracts/build.py --check fail unless the committed artifact is what the sources give

The artifact is committed, so installing swarm needs no compiler; the check keeps it honest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ARTIFACT = HERE.parent / "swarm" / "chain" / "artifacts" / "Consortium.json"
CONTRACT = "Consortium"
RUNTIME_LIMIT_BYTES = 24_576  # EIP-170
SETTINGS = {
    "evmVersion": "london",  # what the embedded chain executes
    "viaIR": True,
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
    "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
}


def sources() -> dict[str, str]:
    """File name → text of every contract, in name order."""
    return {path.name: path.read_text() for path in sorted(HERE.glob("*.sol"))}


def source_digest(texts: dict[str, str]) -> str:
    """SHA-256 over all names and texts: what the artifact claims to be built from."""
    whole = "".join(f"{name}\n{len(text)}\n{text}" for name, text in texts.items())
    return "0x" + hashlib.sha256(whole.encode()).hexdigest()


def compile_contracts(texts: dict[str, str]) -> dict[str, object]:
    """Run npm's solc over standard JSON. Exits with the compiler's own words if it refuses."""
    compiler = HERE / "node_modules" / "solc" / "solc.js"
    if not compiler.exists():
        sys.exit(f"{compiler} is missing: run `npm ci --prefix contracts` first")
    request = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in texts.items()},
        "settings": SETTINGS,
    }
    # Files, not pipes: the compiler gives up on an input that is not there yet (EAGAIN), and exits
    # without draining a full output, which cuts its answer off.
    with tempfile.TemporaryFile("w+") as question, tempfile.TemporaryFile("w+") as output:
        json.dump(request, question)
        question.seek(0)
        subprocess.run(
            ["node", str(compiler), "--standard-json"],
            stdin=question,
            stdout=output,
            check=True,
            timeout=300,
        )
        output.seek(0)
        text = output.read()
    answer = json.loads(text[text.index("{") :])
    for error in answer.get("errors", ()):
        print(error["formattedMessage"], file=sys.stderr)
    if any(error["severity"] == "error" for error in answer.get("errors", ())):
        sys.exit("the contracts do not compile")
    built = answer["contracts"][f"{CONTRACT}.sol"][CONTRACT]
    runtime_size = len(built["evm"]["deployedBytecode"]["object"]) // 2
    if runtime_size > RUNTIME_LIMIT_BYTES:
        sys.exit(f"the runtime has {runtime_size} bytes; chains accept {RUNTIME_LIMIT_BYTES}")
    version = json.loads((compiler.parent / "package.json").read_text())["version"]
    return {
        "abi": built["abi"],
        "bytecode": "0x" + built["evm"]["bytecode"]["object"],
        "runtime_size": runtime_size,
        "source_digest": source_digest(texts),
        "compiler": f"solc {version} (npm)",
        "settings": {key: value for key, value in SETTINGS.items() if key != "outputSelection"},
    }


def artifact_text(texts: dict[str, str]) -> str:
    """The artifact of these sources, as the file has it."""
    return json.dumps(compile_contracts(texts), indent=1, sort_keys=True) + "\n"


def main() -> None:
    text = artifact_text(sources())
    if "--check" in sys.argv[1:]:
        if not ARTIFACT.exists() or ARTIFACT.read_text() != text:
            sys.exit(
                f"{ARTIFACT} is not what contracts/*.sol give: run `python contracts/build.py`"
            )
        print(f"{ARTIFACT.name} is fresh")
        return
    ARTIFACT.parent.mkdir(parents=True, exist_ok=True)
    temporary = ARTIFACT.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(ARTIFACT)
    size = json.loads(text)["runtime_size"]
    print(f"{ARTIFACT}: runtime {size} of {RUNTIME_LIMIT_BYTES} bytes")


if __name__ == "__main__":
    main()
