"""What this machine makes of swarm's own parts: a transfer, a round, a merge, a transaction.

Every benchmark runs real processes over loopback, leaves the first repetitions out (they start
threads, fill caches, import torch), tells medians, and measures its yardstick, where it has one, in
the same run: figures of two runs on a busy machine cannot be divided by each other.
"""
