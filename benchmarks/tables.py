"""Write the tables and figures of docs/results.md from the file of results.

python benchmarks/tables.py
"""

from pathlib import Path

from comparison.report import by_setting, plot, to_markdown
from comparison.results import read_records

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "retrieval.jsonl"
TABLES = ROOT / "docs" / "generated" / "retrieval.md"
IMAGES = ROOT / "docs" / "images" / "results"
DRAWN = {"DSAH", "DSAH spread", "CSQ", "ADSH", "HashNet", "ITQ"}  # the tables have all


def main() -> None:
    records = read_records(RESULTS)
    TABLES.write_text(to_markdown(records, "images/results"))
    IMAGES.mkdir(exist_ok=True)
    for setting, cells in by_setting(records).items():
        plot(cells, methods=DRAWN).savefig(IMAGES / f"{setting.file_name}.png")
    print(TABLES.read_text())


if __name__ == "__main__":
    main()
