"""Would the tests notice? Small faults, planted one at a time into the contract's rules.

    python -m tests.campaigns mutants --of specification --jobs 2
    python -m tests.campaigns mutants --of contract --sample 150 --seed 1 --jobs 2

Each mutant is the source with one change: a boundary moved, a condition turned, a statement left
out. The tests run on it, those that may notice and quick ones first; one that passes them all has
survived. Survivors are either a missing test or the same program in other words: `answers.toml`
says of each which it is. What is known already is read from a journal: a run may be interrupted.
"""
