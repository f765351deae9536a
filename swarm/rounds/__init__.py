"""This node's part in the rounds of its plans: the hands of the round machine.

`protocol.machine` decides what is to be done, and these parts do it: `driver` feeds the machine,
`training`, `collection`, `merging`, `checking` and `evaluating` each do one kind of what it asks
for. None inherits from another: each is handed what it works with where one is put together.
"""
