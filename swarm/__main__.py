"""`python -m swarm` is `swarm`."""

from swarm.cli import main

if __name__ == "__main__":
    main(prog_name="swarm")
