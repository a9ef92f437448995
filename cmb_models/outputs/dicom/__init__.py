"""Results as DICOM objects that a PACS attaches to the study: a segmentation and a measurement report."""
