"""What a series is, by what its header or sidecar says: an SWI, its phase or magnitude, or something else.

It stands in no one place: vendors say it in ImageType, in the description of the series, or in the name of the sequence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SWI, PHASE, MAGNITUDE, GRE, SKIPPED = "swi", "phase", "magnitude", "gre", "skipped"
LEAST_SLICES = 8  # an SWI of a head has 30 and more; fewer are a localizer or a fragment
GRE_ECHO_MS = 12.0  # gradient echoes with shorter ones are not weighted by T2*
NOT_NAMED = "not named as SWI"

# In descriptions, as words between what is no letter. Siemens and UIH: SWI, GE: SWAN, Philips: SWIp and VenoBOLD, Canon: FSBB.
FAMILY = re.compile(r"(?<![a-z])(e?swi[p]?|e?swan|fsbb|ven(o|ous)?[ _]?bold|susceptib\w*)(?![a-z])")
SEQUENCE = re.compile(r"swi(?![a-z])|swan|fsbb")  # Siemens' sequence is called *swi3d1r
PROJECTION = re.compile(r"(?<![a-z])m(in)?[ _]?ips?(?![a-z])|min(imum)?[ _]intensity|(?<![a-z])(thick|mpr(?![a-z])|reformat)")
LOCALIZER = re.compile(r"locali[sz]er|scout|survey|(three|3)[- _]?(plane|pl)\b|smartbrain|aahead|(?<![a-z])loc(?![a-z])")
DERIVED_MAP = re.compile(
    r"(?<![a-z])(qsm|(field|b0)[ _]?map|(t2|t1|r2|adc|fa|cbf|cbv|ttp|mtt|chi)(\*|star)?[ _]?map|unwrapped)(?![a-z])"
)
PHASE_WORDS = re.compile(r"(?<![a-z])pha(se)?([ _]?(map|image)s?)?(?![a-z])(?! ?(ap|pa|rl|lr|enc|wrap|over))(?<!no phase)")
MAGNITUDE_WORDS = re.compile(r"(?<![a-z])mag(nitude)?(?![a-z])")
PHASE_KINDS, MAGNITUDE_KINDS = {"P", "PHASE", "PHASE MAP", "PHASE_MAP"}, {"M", "SWI", "M_FFE", "MAGNITUDE"}
DERIVED_KINDS = {"MNIP", "MINIP", "MIN IP", "MIP", "REFORMATTED", "MPR", "PROJECTION IMAGE"}
MAP_KINDS = {"FIELD_MAP", "FIELDMAP", "T2_STAR_MAP", "T2 MAP", "T1 MAP", "QSM", "B0 MAP"}
GRE_WORDS = re.compile(r"t2[*_ -]*(star|\*)|hemo|haemo|(?<![a-z])gre(?![a-z])|ffe|fl2d|fl3d|medic|merge")
OTHERS = (
    (re.compile(r"flair|tirm|dark[-_ ]?fl"), "FLAIR"),
    (re.compile(r"dwi|dti|diff|trace|(?<![a-z])adc"), "diffusion"),
    (re.compile(r"mp.?rage|bravo|(?<![a-z0-9])t1"), "T1-weighted"),
    (re.compile(r"(?<![a-z])tof|angio|(?<![a-z])mra(?![a-z])"), "angiography"),
    (re.compile(r"(?<![a-z])asl|perf|(?<![a-z])dsc|(?<![a-z])dce|dyn"), "perfusion"),
    (re.compile(r"(?<![a-z])bold|fmri|(?<![a-z])rest|ep2d|(?<![a-z])epi(?![a-z])"), "functional"),
    (re.compile(r"t2|tse|(?<![a-z])fse|propeller|blade|space|cube"), "T2-weighted"),
    (re.compile(r"(?<![a-z])pdw?(?![a-z])|proton"), "proton-density-weighted"),
)


@dataclass(frozen=True)
class SeriesFacts:
    """What is known of a series.

    Args:
        kinds: The values of ImageType, in capitals.
        description: Of the series.
        protocol: Name of the protocol.
        sequence: Name of the sequence.
        scanning_sequence: DICOM's codes, such as "GR".
        modality: Such as "MR".
        echo_ms: Echo time; None if unknown.
        slices: Their number; None if unknown.
    """

    kinds: frozenset[str] = frozenset()
    description: str = ""
    protocol: str = ""
    sequence: str = ""
    scanning_sequence: str = ""
    modality: str = "MR"
    echo_ms: float | None = None
    slices: int | None = None

    @property
    def words(self) -> str:
        """The description, in small letters; the protocol's name where there is none."""
        return (self.description or self.protocol).lower()


def role_of(facts: SeriesFacts) -> tuple[str, str]:
    """What a series is; for SKIPPED with the reason, for GRE with what to beware of.

    ImageType counts more than words. The protocol's name does not count where the series has a description: it is one for all
    that the scanner makes of it.
    """
    kinds, words = facts.kinds, facts.words
    if facts.modality != "MR":
        return SKIPPED, f"{facts.modality or 'no modality'}, not MR"
    if "LOCALIZER" in kinds or LOCALIZER.search(words):
        return SKIPPED, "a localizer"
    if kinds & DERIVED_KINDS or PROJECTION.search(words):
        return SKIPPED, "a projection over several slices"
    if DERIVED_MAP.search(words) or kinds & MAP_KINDS:
        return SKIPPED, "a map, not an image"
    if kinds & {"R", "I", "REAL", "IMAGINARY"}:
        return SKIPPED, "a real or imaginary part"
    if facts.slices is not None and facts.slices < LEAST_SLICES:
        return SKIPPED, "one slice alone" if facts.slices == 1 else f"{facts.slices} slices alone"
    is_phase = bool(kinds & PHASE_KINDS) or (not kinds & MAGNITUDE_KINDS and bool(PHASE_WORDS.search(words)))
    others = [what for pattern, what in OTHERS if pattern.search(words)]
    by_words = bool(FAMILY.search(words)) and not set(others) - {"functional", "T2-weighted"}
    if "SWI" in kinds or by_words or (not others and SEQUENCE.search(facts.sequence.lower())):
        if is_phase:
            return PHASE, ""
        return (MAGNITUDE, "") if MAGNITUDE_WORDS.search(words) else (SWI, "")
    if not others and not is_phase and MAGNITUDE_WORDS.search(words):
        return MAGNITUDE, ""
    if _is_gre(facts) and not is_phase and (GRE_WORDS.search(words) or not others):
        return GRE, "a T2*-weighted magnitude, not SWI"
    if others:
        return SKIPPED, f"{others[0]}, not SWI"
    return (PHASE, "") if is_phase else (SKIPPED, NOT_NAMED)


def _is_gre(facts: SeriesFacts) -> bool:
    sequence = facts.scanning_sequence.upper()
    has_late_echo = facts.echo_ms is not None and facts.echo_ms >= GRE_ECHO_MS
    return "GR" in sequence and "IR" not in sequence and "EP" not in sequence and has_late_echo
