"""The Markdown page of all releases' figures on real images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from research.real_cubes.scoring import HEAD_WIDTH

INTRODUCTION = """\
# Releases on real images

Written by `python -m research.real_evidence` from [results/real_evidence.json](results/real_evidence.json). Add a release with
`python -m research.real_evidence BUNDLE --name NAME`. The real files are not part of the repository, and no release was trained
on them. Figures are at each release's own threshold, with 95 % intervals.

- **Real CMBs**: 30 CMBs marked by experts and 8 false positives of a published detector, in 10 patients (3 T, TE 24 ms; Dou
  2016). The axial, coronal and sagittal plane through each site are assembled into a cube by spherical interpolation, which both
  networks are given. A CMB is found if the candidate network's peak within 3 mm passes its floor and the fused score passes the
  threshold. Intensities are scaled by the foreground of the site's axial slice, which is brain-extracted; "head" instead assumes
  the scale of a whole head, on which releases are trained. Intervals are over patients. AUC: area under the ROC curve of the
  fused score, CMBs against the published false positives.
- **Inserted CMBs**: CMBs of the phantom's second generation, 2 mm and larger, in real scans without known CMBs. `gre_crop` has
  magnitude and phase: they are inserted into the complex image, whose SWI is made by the phantom's recipe. `gbb7t`, two scans, has
  magnitude alone, which is multiplied by the size of their complex factor ("magnitude") or by their own SWI ("SWI"). Exact
  binomial intervals, which hold for the scan, not for people.
- **False positives** in the brain of the untouched scans, with exact Poisson intervals.
"""
LIMITS = f"""\
## Limits

- Three planes are not a scan. The control shows how much the assembled cube changes the scores of simulated lesions. The
  networks see 24 mm and nothing beyond.
- The eight published false positives are of four patients, and were selected because they resemble CMBs.
- `gre_crop` is a piece of brain of 24 × 24 × 41 mm: the width of its foreground over the median is far below a whole head's
  ({HEAD_WIDTH:g}), so its contrast is exaggerated. Its field and echo time, and the echo time of `gbb7t`, are assumed.
- `gbb7t` is no SWI, shows the back of the head only, and its two scans are probably of one person.
- Inserted CMBs obey the physics on which releases are trained: they test real backgrounds, not real lesions. The noise of the
  scan is multiplied by their factor.
"""
MAIN = (
    "release",
    "real CMBs found",
    "head",
    "AUC",
    "AUC, head",
    "published false positives above threshold",
    "classifier > .5, CMBs",
    "inserted CMBs found, `gre_crop`",
    "`gbb7t`, magnitude",
    "`gbb7t`, SWI",
    "false positives per litre, `gre_crop`",
    "`gbb7t`",
)
CLASSES = ("below 2 mm", "2 to below 3 mm", "3 to below 5 mm", "5 to below 10 mm")
SIZES = ("release", "scan", "inserted as", *CLASSES, "left out", "score from 2 mm")
FALSE = ("release", "scan", "brain (l)", "false positives", "per litre", "at a marked vein", "outside the brain", "highest score")
APPEARANCE = ("darkest_over_surround", "width_in_plane_mm", "width_through_plane_mm")
APPEAR = ("scan", "inserted as", "darkest over surroundings", "width in plane (mm)", "through plane (mm)", "foreground")
CONTROL = (
    "release",
    "generation",
    "lesions",
    "true cubes",
    "assembled",
    "found, true",
    "assembled",
    "same decision",
    "AUC, true",
    "assembled",
)
VARIANTS = {"inserted": "magnitude", "inserted_as_swi": "SWI"}
NONE = "–"


def page(rows: Sequence[dict]) -> str:
    """The page of releases as `evidence` gives them; tables without rows for none."""
    return "\n".join(
        [
            INTRODUCTION,
            _table(MAIN, map(_main_row, rows)),
            "## Inserted CMBs by size\n",
            "Left out: those within reach of a false positive of the untouched scan. Score: median (5th–95th percentile).\n",
            _table(SIZES, (r for row in rows for r in _size_rows(row))),
            "## False positives in the untouched scans\n",
            _table(FALSE, (r for row in rows for r in _false_rows(row))),
            "## Appearance of real and inserted CMBs\n",
            "Median (5th–95th percentile) by `research.real_planes`. Foreground: its 5th–95th percentile range over its median.\n",
            _table(APPEAR, _appearance_rows(rows[-1]) if rows else ()),
            "## Control: simulated lesions whose cube is known\n",
            "Medians of the candidate network's, the classifier's and the fused score.\n",
            _table(CONTROL, (r for row in rows for r in _control_rows(row))),
            LIMITS,
        ]
    )


def _main_row(row: dict) -> list[str]:
    cubes, scans = row["cubes"], row["backgrounds"]
    real = [NONE] * 6
    if "left_out" not in cubes:
        head = cubes["with_whole_head_scale"]
        real = [_share(cubes["real_cmb_found"]), _share(head["real_cmb_found"])]
        real += [_value(x["auc"], x["interval_95"]) for x in (cubes["real_patch_auc"], head["real_patch_auc"])]
        real += [_share(cubes["real_false_positives_above_threshold"]), _share(cubes["classifier_above_half"]["cmb"])]
    gre, epis = scans["gre_crop"], [s for n, s in scans.items() if n != "gre_crop" and "left_out" not in s]
    inserted = [_share(gre["inserted"]["from_2_mm"])]
    inserted += [_joined(_share(s[kind]["from_2_mm"]) for s in epis) for kind in VARIANTS]
    return [row["name"], *real, *inserted, _rate(gre["untouched"]), _joined(_rate(s["untouched"]) for s in epis)]


def _variants(row: dict) -> Iterable[tuple[str, str, dict, dict]]:
    """Scan, how CMBs were inserted, their figures and the scan's."""
    for scan, figures in row["backgrounds"].items():
        for kind, how in VARIANTS.items():
            if kind in figures:
                yield scan, "complex" if figures["image"] == "magnitude and phase" else how, figures[kind], figures


def _size_rows(row: dict) -> Iterable[list[str]]:
    for scan, how, inserted, _ in _variants(row):
        sizes = [_share(inserted["by_size"][c]) if c in inserted["by_size"] else NONE for c in CLASSES]
        scores = inserted["scores_from_2_mm"]
        yield [row["name"], scan, how, *sizes, str(inserted["at_occupied_places"]), _spread(scores) if scores else NONE]


def _false_rows(row: dict) -> Iterable[list[str]]:
    for scan, figures in row["backgrounds"].items():
        if "left_out" not in figures:
            found = figures["untouched"]
            at = [str(found.get(k, NONE)) for k in ("at_veins", "outside_the_brain")]
            highest = _number(max(found["highest_scores"], default=None))
            yield [row["name"], scan, f"{found['brain_litres']:.3f}", str(found["false_positives"]), _rate(found), *at, highest]


def _appearance_rows(row: dict) -> Iterable[list[str]]:
    if "left_out" not in row["cubes"]:
        yield ["real planes", NONE, *(_spread(row["cubes"]["appearance"][k]) for k in APPEARANCE), NONE]
    for scan, how, inserted, figures in _variants(row):
        seen = inserted["appearance"]
        cells = [_spread(seen[k]) if seen else NONE for k in APPEARANCE]
        yield [scan, how, *cells, f"{figures['foreground_width_over_median']:.2f}"]


def _control_rows(row: dict) -> Iterable[list[str]]:
    for generation, control in row["cubes"].get("control", {}).items():
        true, assembled, same = control["true"], control["assembled"], control["same_decision"]
        both = [f"{same['count']} of {same['of']}", _number(true["auc"]), _number(assembled["auc"])]
        for kind, plural in (("cmb", "CMBs"), ("mimic", "mimics")):
            one, other = true[kind], assembled[kind]
            scores = [" / ".join(_number(x[k]) for k in ("stage1", "stage2", "fused")) for x in (one, other)]
            above = [str(x["above_threshold"]) for x in (one, other)]
            last = both if kind == "cmb" else [NONE] * 3
            yield [row["name"], generation.split()[-1], f"{one['sites']} {plural}", *scores, *above, *last]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _share(figures: dict) -> str:
    count = figures.get("found", figures.get("count"))
    return f"{count} of {figures['of']} ({_range(figures['interval_95'])})" if figures["of"] else NONE


def _rate(figures: dict) -> str:
    if figures["per_litre"] is None:
        return NONE
    low, high = figures["interval_95"]
    return f"{figures['per_litre']:.1f} ({low:.1f}–{high:.1f})"


def _value(value: float | None, interval: Sequence[float] | None) -> str:
    return _number(value) + (f" ({_range(interval)})" if value is not None and interval else "")


def _range(interval: Sequence[float]) -> str:
    return "–".join(f"{v:.2f}" for v in interval)


def _spread(figures: dict) -> str:
    return f"{figures['median']:.2f} ({figures['p5']:.2f}–{figures['p95']:.2f})"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _joined(cells: Iterable[str]) -> str:
    return ", ".join(cells) or NONE
