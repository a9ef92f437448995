"""Stage report: everything that was measured in one self-contained page, with every miss and every false positive to look at."""

from __future__ import annotations

from cmb_models.config.params import load_params
from cmb_models.files import write_text
from cmb_models.report.data import Sources, load_report_data
from cmb_models.report.page import render
from cmb_models.workspace.paths import BUNDLE, INDEX, PARAMS, REPORTS, SPLIT, TUNED_CNN, TUNED_UNET
from cmb_models.workspace.stage import run

SOURCES = Sources(
    out_of_fold=REPORTS / "cross_validate",
    locked=REPORTS / "evaluate",
    tuned_unet=TUNED_UNET,
    tuned_cnn=TUNED_CNN,
    bundle=BUNDLE,
    index=INDEX,
    split=SPLIT,
)


def main() -> None:
    params = load_params(PARAMS)
    write_text(REPORTS / "report.html", render(load_report_data(SOURCES, params.evaluate)))


if __name__ == "__main__":
    run(main)
