"""The box: a process that runs a plan's code with less than its node has.

Consent to a plan runs its code. That code needs its own files, the site's data, the libraries and
the GPU; it gets these and nothing else of the machine. A box is described as data (`description`);
one small program (`launcher`) reads the description and builds the walls before the plan's code is
executed; `process` starts that program and speaks with it from the node's side.

| module | what it is |
|---|---|
| `description` | a box as data, and the report on which of its walls stand |
| `contents` | what Python, torch and a GPU need of a machine: files, devices, environment |
| `process` | the node's side: starts a boxed process, ends it, hands it files |
| `launcher` | the program between the node and the box |
| `namespaces`, `landlock`, `seccomp`, `limits` | the walls, each of which may be missing |
| `system` | the calls to the kernel that Python's library lacks |

Every wall is tried on its own. What a machine does not allow is left out and reported, never
pretended.
"""
