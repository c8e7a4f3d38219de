"""Write the tables and figures of docs/results.md from the files of results.

python benchmarks/tables.py
"""

from pathlib import Path

from comparison.report import by_setting, fine_tuned_to_markdown, plot, to_markdown
from comparison.results import read_records

ROOT = Path(__file__).parents[1]
RESULTS, TABLES = ROOT / "benchmarks" / "results", ROOT / "docs" / "generated"
IMAGES = ROOT / "docs" / "images" / "results"
NAMES = ("retrieval", "end_to_end")  # of features, and with the backbone
DRAWN = {"DSAH", "DSAH spread", "CSQ", "ADSH", "HashNet", "ITQ"}  # the tables have all


def main() -> None:
    frozen, fine_tuned = (read_records(RESULTS / f"{name}.jsonl") for name in NAMES)
    (TABLES / "retrieval.md").write_text(to_markdown(frozen, "images/results"))
    (TABLES / "end_to_end.md").write_text(fine_tuned_to_markdown(fine_tuned))
    IMAGES.mkdir(exist_ok=True)
    for setting, cells in by_setting(frozen).items():
        plot(cells, methods=DRAWN).savefig(IMAGES / f"{setting.file_name}.png")


if __name__ == "__main__":
    main()
