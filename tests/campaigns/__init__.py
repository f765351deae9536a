"""Long suites, each a command whose result is kept beside the code that it speaks about.

    python -m tests.campaigns                     what there is, and how fresh each result is
    python -m tests.campaigns simulate --seed 17 --story        use a tool freely
    python -m tests.campaigns record days-four    run a campaign as campaigns.toml has it, and keep
                                                  its result with the commit
    python -m tests.campaigns check               fail unless every result holds and is fresh

A result is fresh until a week after the first change to the campaign's paths. CI checks that, so a
change to the consensus cannot land on last month's simulated days. A campaign without a result
fails, unless campaigns.toml says why it is only planned.
"""
