"""Many clients on one machine: the training and the folds of nodes, without a network.

| module | what it is | imports torch |
|---|---|---|
| `partition` | which rows each client has | no |
| `messages` | what the simulator and its workers say to each other | no |
| `clients` | any number of clients in one worker, one model for all | yes |
| `worker` | the process around it | yes |

The simulator itself is `swarm.testnet.simulate`.
"""
