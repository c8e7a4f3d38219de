"""Tables say what the records say, and those of the docs are those of the committed records."""

from pathlib import Path

import pytest
from comparison.report import by_setting, fine_tuned_to_markdown, plot, to_markdown
from comparison.results import read_records

ROOT = Path(__file__).parents[2]


def make_record(method, code_length, seed, score, **changes):
    return {
        "dataset": "cifar10",
        "protocol": "1k/59k",
        "backbone": "resnet18",
        "img_size": None,
        "end_to_end": False,
        "method": method,
        "code_length": code_length,
        "seed": seed,
        "budget": {"epochs": 3, "lr": 0.001},
        "mean_average_precision": score,
        "mean_average_precision_at_5000": score / 2,
        "train_seconds": 10 + seed,
        "train_cpu_seconds": 8.0,
        "train_memory_mib": 20.25,
    } | changes


RECORDS = [
    make_record("float features", None, 0, 0.9),
    make_record("CSQ", 16, 0, 0.5, precision_within_radius_2=0.25),
    make_record("CSQ", 16, 1, 0.7, precision_within_radius_2=0.25),
    make_record("CSQ", 8, 0, 0.1),
    make_record("CSQ", 8, 1, 0.1),
    make_record("ITQ", 8, 0, 0.2),
    make_record("ITQ", 8, 1, 0.1),
    make_record("ITQ", 8, 1, 0.2),  # the cell before, run once more
]
TABLES = """\
### cifar10, 1k/59k: resnet18, frozen, 3 epochs

![mAP over code length](images/cifar10-1k-59k-resnet18-frozen-3-epochs.png)

mAP@all, mean ± standard deviation over 2 seeds († fewer):

| Method | 8 bits | 16 bits |
| --- | --- | --- |
| float features | 0.900 † | 0.900 † |
| CSQ | 0.100 ± 0.000 | **0.600 ± 0.141** |
| ITQ | **0.200 ± 0.000** | - |

??? note "mAP@5000, mean ± standard deviation over 2 seeds († fewer)"

    | Method | 8 bits | 16 bits |
    | --- | --- | --- |
    | float features | 0.450 † | 0.450 † |
    | CSQ | 0.050 ± 0.000 | **0.300 ± 0.071** |
    | ITQ | **0.100 ± 0.000** | - |

??? note "P@H≤2, mean ± standard deviation over 2 seeds († fewer)"

    | Method | 8 bits | 16 bits |
    | --- | --- | --- |
    | float features | - | - |
    | CSQ | - | **0.250 ± 0.000** |
    | ITQ | - | - |

??? note "Costs at 16 bits"

    | Method | Seconds of training | CPU seconds | Peak memory, MiB |
    | --- | --- | --- | --- |
    | float features | 10.0 † | 8.0 † | 20.2 † |
    | CSQ | 10.5 ± 0.7 | 8.0 ± 0.0 | 20.2 ± 0.0 |
    | ITQ | - | - | - |
"""


def test_tables():
    assert to_markdown(RECORDS, "images") == TABLES


def test_unseen_images_have_a_table_where_there_are_some():
    records = [make_record("CSQ", 8, 0, 0.5, mean_average_precision_of_unseen=0.4)]
    text = to_markdown([*records, make_record("ITQ", 8, 0, 0.3)])
    assert "mAP over unseen images alone, one seed:" in text
    assert "| CSQ | **0.400** |\n| ITQ | - |" in text
    assert "unseen" not in to_markdown(RECORDS)


def test_the_best_is_one_of_those_with_the_most_seeds():
    records = [make_record("CSQ", 8, seed, 0.5) for seed in (0, 1)]
    text = to_markdown([*records, make_record("ITQ", 8, 0, 0.9)])
    assert "| ITQ | 0.900 † |\n| CSQ | **0.500 ± 0.000** |" in text


def test_no_figures_and_one_seed():
    text = to_markdown([make_record("CSQ", 8, 0, 0.5)])
    assert "![" not in text
    assert "mAP@all, one seed:\n\n| Method | 8 bits |\n| --- | --- |\n| CSQ | **0.500** |" in text


FINE_TUNED = """\
### cifar10, 1k/59k

| Method | Bits | Backbone | Epochs | Seeds | mAP@all | mAP, unseen | mAP@5000 | CPU minutes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| ITQ | 8 | vit, 96 px, trained at 72 | 3 | 1 | 0.700 | 0.650 | 0.350 | 2 |
| CSQ | 8 | resnet18 | 3 | 2 | 0.500 ± 0.141 | - | 0.250 ± 0.071 | 3 |
| CSQ | 16 | resnet18 | 3 | 1 | 0.300 | - | 0.150 | 3 |

### miml, 10%/90%

| Method | Bits | Backbone | Epochs | Seeds | mAP@all | mAP, unseen | mAP@5000 | CPU minutes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| CSQ | 8 | resnet18 | 4 of 7 steps | 1 | 0.900 | - | 0.450 | 3 |
"""


def test_fine_tuned_settings_are_rows_the_best_first():
    end_to_end = {"end_to_end": True, "train_cpu_seconds": 180}
    other = {"dataset": "miml", "protocol": "10%/90%"}
    unseen = {"mean_average_precision_of_unseen": 0.65}
    records = [
        make_record("CSQ", 16, 0, 0.3, **end_to_end),
        make_record("CSQ", 8, 0, 0.4, **end_to_end),
        make_record(
            "CSQ", 8, 0, 0.9, **end_to_end, **other, budget={"epochs": 4, "steps_per_epoch": 7}
        ),
        make_record("CSQ", 8, 1, 0.6, **end_to_end),
        make_record(
            "ITQ",
            8,
            0,
            0.7,
            backbone="vit (vit.safetensors)",
            img_size=96,
            train_cpu_seconds=120,
            budget={"epochs": 3, "lr": 0.001, "training_scale": 0.75},
            **unseen,
        ),
    ]
    assert fine_tuned_to_markdown(records) == FINE_TUNED


def test_settings_are_apart():
    others = {
        "protocol": "10%/90%",
        "backbone": "vit",
        "img_size": 96,
        "end_to_end": True,
        "budget": {"epochs": 3, "lr": 0.1},
    }
    records = [make_record("CSQ", 8, 0, 0.5)]
    records += [make_record("CSQ", 8, 0, 0.6, **{name: value}) for name, value in others.items()]
    settings = by_setting(records)
    assert [len(cells.records) for cells in settings.values()] == [1] * 6
    titles = [setting.title for setting in settings]
    assert "cifar10, 10%/90%: resnet18, frozen, 3 epochs" in titles
    assert "cifar10, 1k/59k: resnet18 at 96 px, frozen, 3 epochs" in titles
    assert "cifar10, 1k/59k: resnet18, trained end to end, 3 epochs" in titles


def test_a_setting_of_a_folder_names_one_file():
    (setting,) = by_setting(
        [make_record("CSQ", 8, 0, 0.5, dataset="../my photos", protocol="10%/90%")]
    )
    assert setting.file_name == "..-my-photos-10-90-resnet18-frozen-3-epochs"


def test_figure():
    ((_, cells),) = by_setting(RECORDS).items()
    axes = plot(cells).axes[0]
    assert axes.get_ylabel() == "mAP@all"
    drawn = {c.get_label(): c.lines[0] for c in axes.containers}
    assert set(drawn) == {"float features", "CSQ", "ITQ"}
    assert drawn["CSQ"].get_xydata().tolist() == [[8, 0.1], [16, pytest.approx(0.6)]]
    assert drawn["float features"].get_xydata().tolist() == [[8, 0.9], [16, 0.9]]
    assert drawn["ITQ"].get_xydata().tolist() == [[8, 0.2]]


def test_figure_without_bits(tmp_path):
    ((_, cells),) = by_setting(RECORDS[:1]).items()
    plot(cells).savefig(tmp_path / "empty.png")
    assert to_markdown(RECORDS[:1]).count("| float features |") == 3  # no radius without bits


def test_the_tables_of_the_docs_are_those_of_the_committed_records():
    frozen, fine_tuned = (
        read_records(ROOT / "benchmarks" / "results" / f"{name}.jsonl")
        for name in ("retrieval", "end_to_end")
    )
    generated = ROOT / "docs" / "generated"
    hint = "run benchmarks/tables.py"
    assert frozen
    assert (generated / "retrieval.md").read_text() == to_markdown(frozen, "images/results"), hint
    assert fine_tuned
    assert (generated / "end_to_end.md").read_text() == fine_tuned_to_markdown(fine_tuned), hint
    for setting in by_setting(frozen):
        assert (ROOT / "docs" / "images" / "results" / f"{setting.file_name}.png").exists()


def test_a_record_from_before_a_field_of_the_budget_is_of_the_same_setting():
    earlier = make_record("CSQ", 8, 0, 0.1)
    later = make_record("ITQ", 8, 0, 0.1, budget=earlier["budget"] | {"trunk_rate": 0.1})
    other = make_record("ITQ", 8, 0, 0.1, budget=earlier["budget"] | {"trunk_rate": 0.3})
    assert [len(cells.methods) for cells in by_setting([earlier, later]).values()] == [2]
    assert len(by_setting([earlier, later, other])) == 2
