"""What happens inside one site: the plan, its trainer process, and the merging of numbers.

| module | what it is | imports torch |
|---|---|---|
| `plan` | what a user writes: `Plan`, `Site`, `Data` | no |
| `tables`, `splits`, `statistics`, `histograms`, `tallies` | small helpers for plans | no |
| `watching` | values unlike those from which a model has learned | no |
| `metrics` | scores of one site's rows, and counts that sites add up | no |
| `arrays`, `settings` | whether data are numbers, and a plan's names Plan's | no |
| `bundle` | a plan's code as bytes with one digest, for the chain and the wire | no |
| `sites` | how an example's data is dealt to the nodes of a testnet | no |
| `messages`, `supervisor` | the main process's side of the trainer process | no |
| `placement`, `stages`, `programs` | where tensors live, what rounds are for | no |
| `folds`, `folding` | the bit-exact way from updates to the next model | no |
| `card`, `model_folder`, `use` | a model as a folder, and its use with the plan in a box | no |
| `faults`, `loading`, `site_plan` | the plan's code at one site, and its faults | yes |
| `state`, `travel`, `batches`, `checkpoint`, `loop` | local training | yes |
| `simulation` | any number of clients in a few workers | some |
| `predicting`, `loaded_model`, `run_export` | predictions, and a folder opened in Python | yes |
| `trainer`, `evaluate` | processes of their own that run the user's code | yes |

The main process of a node imports only what is marked "no".
"""
