"""Run slither over the contracts with the pinned compiler, which npm installs as JavaScript.

    npm ci --prefix contracts                            once: the compiler
    python -m venv /tmp/slither && /tmp/slither/bin/pip install slither-analyzer
    python contracts/slither.py /tmp/slither/bin/slither [slither's own options]

slither wants a `solc` program; this hands it a small one that passes standard JSON on to npm's.
Every finding is answered in docs/security.md; what is new there is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from build import CONTRACT, HERE, SETTINGS, sources

OUTPUTS = [
    *("abi", "devdoc", "userdoc", "evm.bytecode", "evm.deployedBytecode"),
    *("evm.methodIdentifiers", "evm.bytecode.sourceMap", "evm.deployedBytecode.sourceMap"),
]
SOLC = """\
#!/bin/sh
# Through files: the compiler cuts long answers to a pipe off, and cannot wait for its input.
if [ "$1" = --version ]; then exec node {compiler} --version; fi
cat > {folder}/question.json
node {compiler} --standard-json < {folder}/question.json > {folder}/answer.json || exit 1
sed -n '/^{{/,$p' {folder}/answer.json
"""


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    slither, *options = sys.argv[1:]
    compiler = HERE / "node_modules" / "solc" / "solc.js"
    if not compiler.exists():
        sys.exit(f"{compiler} is missing: run `npm ci --prefix contracts` first")
    settings = SETTINGS | {"outputSelection": {"*": {"*": OUTPUTS, "": ["ast"]}}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        solc = folder / "solc"
        solc.write_text(SOLC.format(compiler=compiler, folder=folder))
        solc.chmod(0o700)
        request = folder / f"{CONTRACT}.json"
        request.write_text(
            json.dumps(
                {
                    "language": "Solidity",
                    "sources": {file: {"content": text} for file, text in sources().items()},
                    "settings": settings,
                }
            )
        )
        command = [str(Path(slither).absolute()), str(request)]
        command += ["--compile-force-framework", "solc-json", "--solc", str(solc), *options]
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        sys.exit(subprocess.run(command, cwd=HERE, env=environment, timeout=600).returncode)


if __name__ == "__main__":
    main()
