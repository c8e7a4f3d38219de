"""The tables and figures of docs/results.md, from the file of the results.

python benchmarks/tables.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from comparison.report import by_setting, plot, to_markdown  # noqa: E402 (of examples/)
from comparison.results import read_records  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "retrieval.jsonl"
TABLES = ROOT / "docs" / "generated" / "retrieval.md"
IMAGES = ROOT / "docs" / "images" / "results"


def main() -> None:
    records = read_records(RESULTS)
    TABLES.write_text(to_markdown(records, "images/results"))
    IMAGES.mkdir(exist_ok=True)
    for setting, cells in by_setting(records).items():
        plot(cells).savefig(IMAGES / f"{setting.file_name}.png")
    print(TABLES.read_text())


if __name__ == "__main__":
    main()
