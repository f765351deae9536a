"""The node's side of the chain: where it comes from, how it is asked, and its recovery."""
