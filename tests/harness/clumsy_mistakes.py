"""The mistakes of a clumsy scientist: what is changed in a sound plan or its tables, and what then
must come of it.

Three outcomes are right: the very result of the sound plan (`SAME`), another result in which every
row counts (`SOUND`), or one sentence that matches a pattern: the value, and the remedy or what the
library said. That it names a place is checked for all of them.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass, field

SAME = "the same result"
SOUND = "a sound result"

HEADER = ["patient", "age", "crp", "ward", "note", "died"]
AGE, CRP, WARD, NOTE, DIED = 1, 2, 3, 4, 5

CODE = {
    "imports": "",
    "settings": "",
    "model": "return nn.Linear(4, 1)",
    "columns": 'x, ward = table.numbers("age", "crp"), table.one_hot("ward", ["general", "icu"])',
    "split": "parts = swarm.split(y, [0.2, 0.3], seed=site.seed)",
    "arrays": "whole = [(x[p], y[p]) for p in parts]",
    "give": "return swarm.Data(*whole)",
    "statistics": "return swarm.moments(data.train[0])",
    "prepare": "return data.map(lambda x, y: (swarm.standardise(x, statistics), y))",
    "loss": "return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)",
    "metrics": 'return {"auc": swarm.metrics.auc(y, model(x)[:, 0]), "rows": len(y)}',
    "methods": "",
}

PLAN = """\
import sys

import numpy as np
import torch
from torch import nn

import swarm
{imports}


class Clumsy(swarm.Plan):
    rounds = 1
    batch_size = 8
    learning_rate = 0.01
    {settings}

    def model(self):
        {model}

    def data(self, site):
        table = swarm.read_csv(site.path)
        {columns}
        x, y = np.hstack([x, ward]), table.numbers("died")[:, 0]
        {split}
        {arrays}
        {give}

    def statistics(self, data):
        {statistics}

    def prepare(self, data, statistics):
        {prepare}

    def loss(self, model, batch):
        x, y = batch
        {loss}

    def metrics(self, model, data):
        x, y = data
        {metrics}

    {methods}
"""


@dataclass
class Work:
    """What the scientist hands in: the plan's code by part, and one site's table, row by row."""

    rows: list[list[str]]
    code: dict[str, str] = field(default_factory=lambda: dict(CODE))
    encode: Callable[[str], bytes] = str.encode
    suffix: str = ".csv"
    edit: Callable[[str], str] = str

    def plan(self) -> str:
        """The whole of plan.py."""
        return PLAN.format(**self.code)

    def table(self) -> bytes:
        """The bytes of the site's file."""
        lines = [",".join(cells) for cells in (HEADER, *self.rows)]
        return self.encode(self.edit("\n".join(lines) + "\n"))


@dataclass(frozen=True)
class Mistake:
    """One kind of mistake: where it is made (two in one place exclude each other), and how."""

    name: str
    place: str
    make: Callable[[Work, random.Random], None]
    outcome: str


def _cell(column: int, value: str) -> Callable[[Work, random.Random], None]:
    def make(work: Work, chance: random.Random) -> None:
        chance.choice(work.rows)[column] = value

    return make


def _code(part: str, text: str) -> Callable[[Work, random.Random], None]:
    def make(work: Work, chance: random.Random) -> None:
        indent = " " * (8 if part not in ("imports", "settings", "methods") else 4)
        work.code[part] = text.replace("\n", "\n" + indent if part != "imports" else "\n")

    return make


def _text(edit: Callable[[str], str]) -> Callable[[Work, random.Random], None]:
    def make(work: Work, chance: random.Random) -> None:
        work.edit = edit

    return make


def _bytes(encode: Callable[[str], bytes], suffix: str = ".csv") -> Callable[..., None]:
    def make(work: Work, chance: random.Random) -> None:
        work.encode, work.suffix = encode, suffix

    return make


def _line(change: Callable[[list[str], int], object]) -> Callable[[Work, random.Random], None]:
    """Change the lines of the file at a random row's place, never the last row's."""

    def make(work: Work, chance: random.Random) -> None:
        at = chance.randrange(1, len(work.rows))

        def edit(text: str) -> str:
            lines = text.split("\n")
            change(lines, at)
            return "\n".join(lines)

        work.edit = edit

    return make


def _quote(lines: list[str], at: int, close: bool) -> None:
    cells = lines[at].split(",")
    cells[NOTE] = '"' + cells[NOTE]
    lines[at] = ",".join(cells)
    if close:
        cells = lines[at + 1].split(",")
        cells[DIED] += '"'
        lines[at + 1] = ",".join(cells)


def _all_labels(work: Work, chance: random.Random) -> None:
    for row in work.rows:
        row[DIED] = str(int(row[DIED]) + 1)


MODEL = (
    "class Model(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 1)\n"
    "        {line}\n"
)

_TABLES = [
    ("a decimal comma", _cell(AGE, '"61,5"'), r"age is '61,5', which is no number; leave the cell"),
    ("an underscore", _cell(CRP, "1_5"), r"crp is '1_5', which is no number"),
    ("a number too large", _cell(AGE, "1e400"), r"age is '1e400', beyond what a float32"),
    ("an infinity", _cell(AGE, "inf"), r"age is 'inf', which is no number"),
    ("a word for a number", _cell(AGE, "old"), r"age is 'old', which is no number"),
    ("other digits", _cell(AGE, "٦١"), r"age is '٦١', which is no number"),
    ("an unknown code", _cell(WARD, "ICU2"), r"ward is 'ICU2', which is none of general, icu"),
    ("an empty cell", _cell(CRP, ""), SOUND),
    ("NA for a gap", _cell(AGE, "NA"), SOUND),
    ("spaces around a cell", _cell(WARD, "  icu "), SOUND),
    ("a note on two lines", _cell(NOTE, '"two\nlines"'), SAME),
    ("a comma in quotes", _cell(NOTE, '"well, well"'), SAME),
    (
        "a missing label",
        _cell(DIED, ""),
        r"strata are missing \(NaN\) in 1 of 40 rows.*leave these",
    ),
    ("labels 1 and 2", _all_labels, r"labels must be 0 or 1, and 2 is among them"),
    ("an open quote", _line(lambda x, at: _quote(x, at, False)), r"close (its|the) quote"),
    ("a stray quote, closed", _line(lambda x, at: _quote(x, at, True)), r"(close (its|the) quote)"),
    ("a short row", _line(lambda x, at: x.__setitem__(at, "1,2")), r"2 cells under 6 column"),
    ("a long row", _line(lambda x, at: x.__setitem__(at, x[at] + ",9")), r"7 cells under 6 column"),
    ("a row of commas", _line(lambda x, at: x.insert(at, ",,,,,")), r"strata are missing"),
    ("a blank line", _line(lambda x, at: x.insert(at, "")), SAME),
    ("semicolons", _text(lambda t: t.replace(",", ";")), r"no column 'age'.*delimiter"),
    ("carriage returns", _text(lambda t: t.replace("\n", "\r\n")), SAME),
    ("old line ends", _text(lambda t: t.replace("\n", "\r")), SAME),
    ("a mark of byte order", _bytes(lambda t: t.encode("utf-8-sig")), SAME),
    ("Latin 1", _bytes(lambda t: t.replace("note", "nöte").encode("latin-1")), r"no UTF-8 text"),
    ("UTF-16", _bytes(lambda t: t.encode("utf-16")), r"no UTF-8 text.*save the file as UTF-8"),
    ("a NUL", _bytes(lambda t: t.encode() + b"\0"), r"holds a NUL byte: save the file"),
    ("a compressed file", _bytes(lambda t: gzip.compress(t.encode()), ".csv.gz"), SAME),
    (
        "a cut file",
        _bytes(lambda t: gzip.compress(t.encode())[:-9], ".csv.gz"),
        r"is the file whole",
    ),
    ("a column twice", _text(lambda t: t.replace("patient", "age", 1)), r"it has 'age' twice"),
    ("a column misspelt", _text(lambda t: t.replace("crp", "CRP", 1)), r"no column 'crp'; it has"),
    ("an empty file", _text(lambda t: ""), r"first line must name each column"),
    ("a header alone", _text(lambda t: t.split("\n")[0] + "\n"), r"holds no rows"),
]

_CODE = [
    ("imports", "sys.exit on import", "sys.exit(3)", r"asks to end the process \(3\)"),
    ("imports", "a missing module", "import nothing_like_it", r"No module named 'nothing_like_it'"),
    ("settings", "batchsize", "batchsize = 16", r"did you mean batch_size\?"),
    ("settings", "learnig_rate", "learnig_rate = 0.1", r"did you mean learning_rate\?"),
    ("settings", "lr", "lr = 0.1", r"declare it by its type: lr: float"),
    ("settings", "a setting as text", 'batch_size = "8"', r"batch_size.: change it there"),
    ("settings", "no epochs", "epochs = 0", r"epochs.: change it there"),
    ("settings", "a rate of NaN", "learning_rate = float('nan')", r"learning_rate is nan: give a"),
    ("settings", "an own setting", "width: int = 4", SAME),
    ("settings", "one thread too many", "threads = 0", r"threads.: change it there"),
    ("methods", "def metric", "def metric(self, model, data): ...", r"did you mean metrics\?"),
    ("methods", "def lose", "def lose(self, model, batch): ...", r"did you mean loss\?"),
    ("methods", "an own method", "def _help(self): ...", SAME),
    ("model", "no return", "nn.Linear(4, 1)", r"must return a torch\.nn\.Module, not NoneType"),
    ("model", "a class", "return nn.ReLU", r"must return a torch\.nn\.Module, not type"),
    ("model", "nothing to train", "return nn.ReLU()", r"no parameters: there is nothing"),
    ("model", "another width", "return nn.Linear(3, 1)", r"RuntimeError: .*cannot be multiplied"),
    ("model", "a lazy layer", "return nn.LazyLinear(1)", r"no values yet: give lazy layers"),
    ("model", "all frozen", "return nn.Linear(4, 1).requires_grad_(False)", r"nothing to train"),
    (
        "model",
        "NaN parameters",
        "m = nn.Linear(4, 1)\nnn.init.constant_(m.weight, float('nan'))\nreturn m",
        r"'weight' is NaN or infinite: initialise it",
    ),
    (
        "model",
        "an infinite mask",
        "m = nn.Linear(4, 1)\nm.register_buffer('mask', torch.tensor(-np.inf))\nreturn m",
        r"buffer 'mask' .*persistent=False",
    ),
    (
        "model",
        "an expanded buffer",
        "m = nn.Linear(4, 1)\nm.register_buffer('s', torch.ones(1).expand(4))\nreturn m",
        SOUND,
    ),
    (
        "model",
        "extra state",
        MODEL.format(line="pass")
        + "    def get_extra_state(self): return {'n': 3}\nreturn Model()",
        r"'_extra_state' is a dict, not a tensor",
    ),
    (
        "split",
        "by a measurement",
        "parts = swarm.split(x[:, 0], [0.2, 0.3], seed=0)",
        r"different st",
    ),
    ("split", "percent", "parts = swarm.split(y, [20, 30], seed=0)", r"\[20, 30\] must lie in 0"),
    ("split", "beyond 1", "parts = swarm.split(y, [0.6, 0.7], seed=0)", r"must lie in 0\.\.1"),
    (
        "split",
        "two columns",
        "parts = swarm.split(x[:, :2], [0.2, 0.3], seed=0)",
        r"shape \[40, 2\]",
    ),
    (
        "split",
        "by patient",
        'who = table.text("patient")\nparts = swarm.split(y, [0.2, 0.3], site.seed, groups=who)',
        SOUND,
    ),
    (
        "columns",
        "row numbers as a filter",
        "x = table.where([1, 2]).numbers('age')",
        r"True or False",
    ),
    (
        "columns",
        "a column that is not there",
        'x = table.numbers("Age")',
        r"no column 'Age'; it has",
    ),
    ("arrays", "another byte order", "whole = [(x.astype('>f4')[p], y[p]) for p in parts]", SAME),
    ("arrays", "float64", "whole = [(x.astype(float)[p], y[p]) for p in parts]", SAME),
    ("arrays", "Fortran order", "whole = [(np.asfortranarray(x[p]), y[p]) for p in parts]", SAME),
    ("arrays", "objects", "whole = [(x[p].astype(object), y[p]) for p in parts]", SAME),
    ("arrays", "lists", "whole = [(x[p].tolist(), y[p].tolist()) for p in parts]", SAME),
    ("arrays", "tensors", "whole = [(torch.tensor(x[p]), y[p]) for p in parts]", SAME),
    (
        "arrays",
        "frames of pandas",
        "import pandas\nwhole = [(pandas.DataFrame(x[p]), pandas.Series(y[p])) for p in parts]",
        SAME,
    ),
    (
        "arrays",
        "frames of polars",
        "import polars\nwhole = [(polars.DataFrame(x[p]), polars.Series(y[p])) for p in parts]",
        SAME,
    ),
    ("arrays", "labels as text", "whole = [(x[p], y[p].astype(str)) for p in parts]", r"no number"),
    ("arrays", "all the labels", "whole = [(x[p], y) for p in parts]", r"different lengths: train"),
    (
        "arrays",
        "rows of several lengths",
        "whole = [([r[: i % 3 + 1].tolist() for i, r in enumerate(x[p])], y[p]) for p in parts]",
        r"makes no array .*give all rows one shape",
    ),
    (
        "arrays",
        "None for a gap",
        "x = x.astype(object)\nx[3, 0] = None\nwhole = [(x[p], y[p]) for p in parts]",
        r"(None in row|which is no number)",
    ),
    ("arrays", "a generator", "whole = [((r for r in x[p]), y[p]) for p in parts]", r"not numbers"),
    (
        "arrays",
        "sparse tensors",
        "whole = [(torch.tensor(x[p]).to_sparse(), y[p]) for p in parts]",
        r"give dense real numbers",
    ),
    ("give", "no return", "swarm.Data(*whole)", r"must return swarm\.Data, not NoneType"),
    ("give", "a tuple", "return tuple(whole)", r"must return swarm\.Data, not tuple"),
    ("give", "a stream", "return swarm.Data(iter(whole))", r"it is a \w+, not numbers"),
    ("give", "sys.exit", "sys.exit()", r"asks to end the process"),
    ("give", "no rows at all", "return swarm.Data()", r"has no rows: give training rows"),
    (
        "give",
        "too few rows",
        "return swarm.Data((x[:3], y[:3]))",
        r"3 training rows.*min_rows is 5",
    ),
    ("give", "itself for ever", "return self.data(site)", r"RecursionError"),
    ("give", "an error that is not text", "raise type('E', (Exception,), {'__str__': 3})", r"E: "),
    ("statistics", "no return", "swarm.moments(data.train[0])", r"dict of arrays, not NoneType"),
    ("statistics", "empty", "return {}", r"statistics are empty: return at least one"),
    ("statistics", "text", "return {'n': 'many'}", r"'n' is no array of numbers"),
    ("statistics", "NaN", "return {'n': float('nan')}", r"'n' is NaN or infinite somewhere: leave"),
    (
        "statistics",
        "by value",
        "return {f'{v:.3f}': 1.0 for v in np.nan_to_num(np.array(data.train[0], float)[:, 0])}",
        r"sites' statistics differ: '[-\d.]+' is .*take them from a list in the plan",
    ),
    ("prepare", "no return", "data.map(lambda x, y: (x, y))", r"swarm\.Data, not NoneType"),
    ("prepare", "another key", "return statistics['mean']", r"KeyError: 'mean'"),
    ("prepare", "validation twice", "return swarm.Data(data.train)", r"no site holds test rows"),
    (
        "prepare",
        "gaps left in",
        "x, y = data.train\nx = np.array(x)\nx[:, 1] = np.nan\nreturn swarm.Data((x, y))",
        r"because batch\[0\] has nan in its column 1: fill missing values",
    ),
    ("loss", "a number", "return float(model(x).mean())", r"a scalar tensor, not float"),
    ("loss", "no return", "model(x)", r"a scalar tensor, not NoneType"),
    ("loss", "a loss for each row", "return model(x)[:, 0] - y", r"not a tensor of shape \[\d\]"),
    (
        "loss",
        "detached",
        "return model(x).detach().mean()",
        r"does not depend on the model's param",
    ),
    ("loss", "NaN", "return model(x).mean() * float('nan')", r"the loss is nan in round 1.*lower"),
    ("loss", "too steep", "return model(x).mean() * 1e38 * 1e38", r"the loss is|NaN or infinite"),
    (
        "loss",
        "a column too many",
        "return nn.functional.binary_cross_entropy_with_logits(model(x), y)",
        r"Target size",
    ),
    ("metrics", "a number", "return 0.5", r"a dict of numbers, not float"),
    ("metrics", "no return", "model(x)", r"a dict of numbers, not NoneType"),
    ("metrics", "all scores", "return {'auc': model(x)}", r"'auc' is a tensor of shape"),
    ("metrics", "an index too far", "return {'last': y[1000]}", r"IndexError"),
    ("metrics", "NaN", "return {'auc': float('nan'), 'rows': len(y)}", SOUND),
]

MISTAKES: list[Mistake] = [
    *(Mistake(name, "table", make, outcome) for name, make, outcome in _TABLES),
    *(Mistake(f"{p}: {name}", p, _code(p, text), outcome) for p, name, text, outcome in _CODE),
]
