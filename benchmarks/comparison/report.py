"""Tables and figures of the records of a comparison."""

import re
from collections.abc import Collection, Iterable
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple

from comparison.results import Record
from comparison.task import Budget
from pml_hashing.visualize import plot_by_code_length

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN_AP = "mean_average_precision"
SCORES = {
    MEAN_AP: "mAP@all",
    "mean_average_precision_of_unseen": "mAP over unseen images alone",
    "mean_average_precision_at_5000": "mAP@5000",
    "precision_within_radius_2": "P@H≤2",
}
SHOWN = list(SCORES)[:2]
"""The tables that a page shows at once. It opens the others where they are asked for."""
FINE_TUNED_SCORES = {
    MEAN_AP: "mAP@all",
    "mean_average_precision_of_unseen": "mAP, unseen",
    "mean_average_precision_at_5000": "mAP@5000",
}
"""The columns of a table that has a row for each setting."""

CPU = "train_cpu_seconds"
COSTS = {
    "train_seconds": "Seconds of training",
    CPU: "CPU seconds",
    "train_memory_mib": "Peak memory, MiB",
}


def without_weights(text: str) -> str:
    """Return a text that names a backbone without the file of its weights."""
    return re.sub(r" \(.*?\)", "", text)


class Setting(NamedTuple):
    """What the records of one table have in common."""

    dataset: str
    protocol: str
    backbone: str
    img_size: int | None
    end_to_end: bool
    budget: Budget

    @classmethod
    def of(cls, record: Record) -> "Setting":
        """Return the setting of a record."""
        budget = Budget(**record["budget"])  # what an older record lacks, it had by default
        shared = {name: record[name] for name in cls._fields[:-1]}
        return cls(**shared, budget=budget)

    @property
    def title(self) -> str:
        """What a heading says."""
        return without_weights(self._description)

    @property
    def file_name(self) -> str:
        """What a file is called."""
        return re.sub(r"[^\w.]+", "-", self._description)

    @property
    def columns(self) -> list[str]:
        """What a row of many settings says of this one: its backbone and its epochs."""
        steps, size = self.budget.steps_per_epoch, self.img_size
        pixels = "" if size is None else f", {size} px"
        if size is not None and self.budget.training_scale != 1:
            pixels += f", trained at {round(size * self.budget.training_scale)}"
        epochs = (
            str(self.budget.epochs) if steps is None else f"{self.budget.epochs} of {steps} steps"
        )
        return [f"{without_weights(self.backbone)}{pixels}", epochs]

    @property
    def _description(self) -> str:
        size = "" if self.img_size is None else f" at {self.img_size} px"
        how = "trained end to end" if self.end_to_end else "frozen"
        trained = f"{how}, {self.budget.epochs} epochs"
        return f"{self.dataset}, {self.protocol}: {self.backbone}{size}, {trained}"


class Cells:
    """The records of one setting, by method, code length and seed."""

    def __init__(self, records: Iterable[Record]) -> None:
        # The later of two records of one cell.
        self.records = {(r["method"], r["code_length"], r["seed"]): r for r in records}
        lengths = {code_length for _, code_length, _ in self.records if code_length is not None}
        self.code_lengths: list[int | None] = [*sorted(lengths)] or [None]
        self.num_seeds = len({seed for _, _, seed in self.records})
        self.methods = sorted(
            {method for method, _, _ in self.records}, key=self._mean_over_lengths, reverse=True
        )

    def values(self, method: str, code_length: int | None, name: str) -> list[float]:
        """Return one value per seed. A method without bits has the same at every code length."""
        return [
            record[name]
            for (of, length, _), record in self.records.items()
            if of == method and length in (code_length, None) and name in record
        ]

    def have(self, name: str) -> bool:
        """Return whether any record has this value."""
        return any(name in record for record in self.records.values())

    def has_bits(self, method: str) -> bool:
        """Return whether the method has codes at all."""
        return any(of == method and length is not None for of, length, _ in self.records)

    def _mean_over_lengths(self, method: str) -> tuple[float, str]:
        every = [self.values(method, length, MEAN_AP) for length in self.code_lengths]
        return fmean(map(fmean, filter(None, every))), method


def by_setting(records: Iterable[Record]) -> dict[Setting, Cells]:
    """Return the records of each setting, in the order in which settings first occur."""
    grouped: dict[Setting, list[Record]] = {}
    for record in records:
        grouped.setdefault(Setting.of(record), []).append(record)
    return {setting: Cells(of_setting) for setting, of_setting in grouped.items()}


def to_markdown(records: Iterable[Record], images: str | None = None) -> str:
    """Return the tables of all settings, as Markdown.

    Args:
        records: Of one file or of several.
        images: The folder of the figures, as a page links to it. No figures if `None`.
    """
    lines: list[str] = []
    for setting, cells in by_setting(records).items():
        lines += [f"### {setting.title}", ""]
        if images is not None:
            lines += [f"![mAP over code length]({images}/{setting.file_name}.png)", ""]
        for name in filter(cells.have, SCORES):
            title, table = f"{SCORES[name]}, {_seeds(cells)}", score_table(cells, name)
            lines += [f"{title}:", "", *table, ""] if name in SHOWN else _folded(title, table)
        lines += _folded(f"Costs at {cells.code_lengths[-1]} bits", cost_table(cells))
    return "\n".join(lines)


def fine_tuned_to_markdown(records: Iterable[Record]) -> str:
    """Return one table for each data set and protocol: few methods, in many settings.

    A row is a method in a setting at a code length, the best mAP first among equal lengths.
    """
    settings: dict[str, list[tuple[Setting, Cells]]] = {}
    for setting, cells in by_setting(records).items():
        title = f"### {setting.dataset}, {setting.protocol}"
        settings.setdefault(title, []).append((setting, cells))
    lines: list[str] = []
    for title, of_title in settings.items():
        lines += [title, "", *_fine_tuned_table(of_title), ""]
    return "\n".join(lines)


def _fine_tuned_table(settings: list[tuple[Setting, Cells]]) -> list[str]:
    rows = sorted(
        (
            (length or 0, -fmean(found), setting, cells, method)
            for setting, cells in settings
            for length in cells.code_lengths
            for method in cells.methods
            if (found := cells.values(method, length, MEAN_AP))
        ),
        key=lambda row: row[:2],
    )
    lines = []
    for length, _, setting, cells, method in rows:
        columns = {name: cells.values(method, length, name) for name in (*FINE_TUNED_SCORES, CPU)}
        minutes = [seconds / 60 for seconds in columns.pop(CPU)]
        scores = [_cell(values, None, len(values)) for values in columns.values()]
        shared = [method, str(length), *setting.columns, str(len(minutes))]
        lines.append([*shared, *scores, f"{fmean(minutes):.0f}"])
    of_setting = ["Method", "Bits", "Backbone", "Epochs", "Seeds"]
    return _table([*of_setting, *FINE_TUNED_SCORES.values(), "CPU minutes"], lines)


def score_table(cells: Cells, name: str) -> list[str]:
    """Return a row for each method and a column for each code length, the best codes in bold.

    Seeds draw other splits, so that the best is one of those with the most seeds.
    """
    columns = []
    for length in cells.code_lengths:
        values = {method: cells.values(method, length, name) for method in cells.methods}
        coded = [v for method, v in values.items() if v and cells.has_bits(method)]
        most = max(map(len, coded), default=0)
        best = max((fmean(v) for v in coded if len(v) == most), default=None)
        columns.append([_cell(v, best, cells.num_seeds) for v in values.values()])
    rows = zip(cells.methods, *columns, strict=True)
    return _table(["Method", *(f"{length} bits" for length in cells.code_lengths)], rows)


def cost_table(cells: Cells) -> list[str]:
    """Return the costs of each method at the largest code length."""
    longest = cells.code_lengths[-1]
    rows = [
        [
            method,
            *(
                _cell(cells.values(method, longest, cost), None, cells.num_seeds, 1)
                for cost in COSTS
            ),
        ]
        for method in cells.methods
    ]
    return _table(["Method", *COSTS.values()], rows)


def plot(cells: Cells, name: str = MEAN_AP, methods: Collection[str] | None = None) -> "Figure":
    """Return the figure of a score over the code length, mean and deviation.

    Args:
        cells: Of one setting.
        name: Of the score.
        methods: Those that are drawn, where there are records of them. All if `None`.
    """
    lengths = [length for length in cells.code_lengths if length is not None]
    scores = {
        method: {
            length: values for length in lengths if (values := cells.values(method, length, name))
        }
        for method in cells.methods
        if methods is None or method in methods
    }
    return plot_by_code_length(scores, ylabel=SCORES[name])


def _seeds(cells: Cells) -> str:
    if cells.num_seeds == 1:
        return "one seed"
    return f"mean ± standard deviation over {cells.num_seeds} seeds († fewer)"


def _cell(values: list[float], best: float | None, num_seeds: int, digits: int = 3) -> str:
    if not values:
        return "-"
    text = f"{fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {stdev(values):.{digits}f}"
    text = f"**{text}**" if best is not None and fmean(values) == best else text
    return text if len(values) == num_seeds else f"{text} †"


def _table(header: list[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _folded(title: str, lines: list[str]) -> list[str]:
    """Return lines that a page of the documentation shows when their title is opened."""
    return [f'??? note "{title}"', "", *(f"    {line}" for line in lines), ""]
