"""What happens inside one site: the plan, its trainer process, and the merging of numbers.

| folder | what it is | imports torch |
|---|---|---|
| `plans` | what an author writes: `Plan`, its settings and stages | its faults |
| `code` | a plan's source as bytes with one digest, and what it imports | no |
| `data` | a site's rows: tables, splits, batches, statistics | batches |
| `parameters` | where tensors live, which travel, and the next file | state |
| `folds` | the bit-exact way from updates to the next model | no |
| `metrics` | scores of one site's rows, and counts that sites add up | no |
| `training` | what runs in the box: training, statistics, predictions | yes |
| `supervisor` | the main process's side of it | no |
| `models` | a model as a folder, its card, and its use with the plan in a box | loaded |
| `simulation` | runs without a network, with any number of clients | some |

The main process of a node imports only what is marked "no".
"""
