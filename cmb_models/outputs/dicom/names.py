"""Names of the DICOM results, for code that does without pydicom."""

SEG_SUFFIX, SR_SUFFIX = "_cmb_seg.dcm", "_cmb_sr.dcm"
CHANGE_SUFFIX = "_cmb_change_sr.dcm"  # of a comparison
