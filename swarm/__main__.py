"""`python -m swarm` is `swarm`: a file of the working directory is no module of it."""

import sys

import swarm

if not sys.flags.safe_path and not swarm.__file__.startswith(sys.path[0] + "/"):
    # Python puts the working directory first, where a `random.py` would be taken for the library's.
    # Where swarm itself is run from its source tree, it stays.
    del sys.path[0]

from swarm.cli import main

if __name__ == "__main__":
    main(prog_name="swarm")
