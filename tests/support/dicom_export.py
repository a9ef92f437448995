"""A simulated DICOM export: volumes as the series of Siemens, GE and Philips scanners, with the others of such an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cmb_models.volume import Volume

SECRET = "Zzyzx"  # occurs in every text field that could identify a patient


@dataclass(frozen=True)
class Kind:
    """How one vendor writes one kind of image."""

    description: str
    image_type: Sequence[str]


M = ("ORIGINAL", "PRIMARY", "M", "ND", "NORM")
VENDORS: dict[str, dict[str, Kind]] = {
    "SIEMENS": {
        "swi": Kind("SWI_Images", ("ORIGINAL", "PRIMARY", "M", "SWI", "NORM")),
        "phase": Kind("Pha_Images", ("ORIGINAL", "PRIMARY", "P", "ND")),
        "magnitude": Kind("Mag_Images", M),
        "minip": Kind("mIP_Images(SW)", ("DERIVED", "PRIMARY", "MNIP", "ND", "NORM")),
        "t1": Kind("t1_mprage_sag", M),
        "flair": Kind("t2_tirm_tra_dark-fluid", M),
        "localizer": Kind("localizer", ("ORIGINAL", "PRIMARY", "M", "ND")),
    },
    "GE MEDICAL SYSTEMS": {
        "swi": Kind("Ax SWAN", ("ORIGINAL", "PRIMARY", "OTHER")),
        "phase": Kind("FILT_PHA: Ax SWAN", ("DERIVED", "SECONDARY", "PHASE")),
        "minip": Kind("MIN IP: Ax SWAN", ("DERIVED", "SECONDARY", "MIN IP")),
        "t2": Kind("Ax T2 PROPELLER", ("ORIGINAL", "PRIMARY", "OTHER")),
        "fieldmap": Kind("B0map", ("ORIGINAL", "PRIMARY", "OTHER")),
        "localizer": Kind("3Plane Loc", ("ORIGINAL", "PRIMARY", "OTHER")),
    },
    "Philips Medical Systems": {
        "swi": Kind("SWIp", ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE")),
        "phase": Kind("SWIp", ("ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE")),
        "minip": Kind("SWIp mIP", ("DERIVED", "PRIMARY", "MINIP", "M", "FFE")),
        "dwi": Kind("DWI_b1000", ("ORIGINAL", "PRIMARY", "M_SE", "M", "SE")),
        "localizer": Kind("Survey", ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE")),
    },
}


def write_study(
    folder: Path, vendor: str, patient: str, volume: Volume, rng: np.random.Generator, kinds: Sequence[str] | None = None
) -> None:
    """Write a study of one patient: every kind of the vendor, or those named, in numbered folders.

    Philips' SWI and phase are one series. Names of files say nothing.
    """
    study, number = generate_uid(), 0
    series_of: dict[str, str] = {}
    for kind, how in VENDORS[vendor].items():
        if kinds is not None and kind not in kinds:
            continue
        number += 1
        shared = vendor.startswith("Philips") and kind == "phase"
        series_of[kind] = series_of["swi"] if shared else generate_uid()
        image = volume
        if kind == "localizer":
            image = Volume(volume.data[:, :, :3], volume.affine)
        elif kind == "phase":
            image = Volume(rng.integers(-2048, 2048, volume.data.shape), volume.affine)
        about = {"study": study, "series": series_of[kind], "number": 1 if shared else number, "patient": patient, "vendor": vendor}
        write_series(folder / f"{number:04}", image, how, about)


def write_series(folder: Path, volume: Volume, how: Kind, about: dict) -> None:
    """Write one series of axial slices: volume (I, J, K), any affine that DICOM can hold."""
    folder.mkdir(parents=True, exist_ok=True)
    to_lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    columns = to_lps[:3, :3] / np.linalg.norm(to_lps[:3, :3], axis=0)
    for k in range(volume.data.shape[2]):
        image = pydicom.Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID = about["study"], about["series"]
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=[about["study"]])
        image.SeriesNumber, image.InstanceNumber = about["number"], k + 1
        image.Modality, image.Manufacturer = "MR", about["vendor"]
        image.SeriesDescription, image.ImageType = how.description, list(how.image_type)
        image.ScanningSequence, image.EchoTime, image.RepetitionTime, image.FlipAngle = "GR", 20.0, 28.0, 15.0
        image.MagneticFieldStrength, image.StudyDate, image.StudyTime = 3.0, "20240117", "081523"
        _identify(image, about["patient"])
        image.Rows, image.Columns = volume.data.shape[1], volume.data.shape[0]
        spacing = [round(s, 6) for s in volume.spacing_mm]
        image.PixelSpacing, image.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        image.SpacingBetweenSlices = spacing[2]
        image.ImageOrientationPatient = [round(float(v), 6) for v in (*columns[:, 0], *columns[:, 1])]
        image.ImagePositionPatient = [round(float(v), 5) for v in to_lps[:3, 3] + k * to_lps[:3, 2]]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PixelData = np.ascontiguousarray(volume.data[:, :, k].T.astype("<i2")).tobytes()
        image.save_as(folder / f"IM{k:05}", enforce_file_format=True)


def write_multiframe(file: Path, volume: Volume, component: str = "MAGNITUDE", missing: int | None = None) -> None:
    """Write an SWI as one enhanced multi-frame file. component: part of the complex image. missing: a slice to leave out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    to_lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    columns = to_lps[:3, :3] / np.linalg.norm(to_lps[:3, :3], axis=0)
    image = pydicom.Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = EnhancedMRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    image.SeriesNumber, image.InstanceNumber, image.Modality, image.Manufacturer = 5, 1, "MR", "Philips Medical Systems"
    image.SeriesDescription, image.ImageType = "SWIp", ["ORIGINAL", "PRIMARY", "T2_STAR", "NONE"]
    image.ComplexImageComponent, image.AcquisitionContrast = component, "T2_STAR"
    image.StudyDate, image.StudyTime = "20240117", "081523"
    _identify(image, "enhanced")
    image.Rows, image.Columns = volume.data.shape[1], volume.data.shape[0]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    slices = [k for k in range(volume.data.shape[2]) if k != missing]
    image.NumberOfFrames = len(slices)
    spacing = [round(s, 6) for s in volume.spacing_mm]
    measures = _item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2], SpacingBetweenSlices=spacing[2])
    orientation = _item(ImageOrientationPatient=[round(float(v), 6) for v in (*columns[:, 0], *columns[:, 1])])
    shared = _item(
        PixelMeasuresSequence=[measures],
        PlaneOrientationSequence=[orientation],
        MRTimingAndRelatedParametersSequence=[_item(RepetitionTime=28.0, FlipAngle=15.0)],
        MREchoSequence=[_item(EffectiveEchoTime=20.0)],
    )
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for n, k in enumerate(slices):
        position = [round(float(v), 5) for v in to_lps[:3, 3] + k * to_lps[:3, 2]]
        content = _item(StackID="1", InStackPositionNumber=n + 1, TemporalPositionIndex=1, DimensionIndexValues=[1, n + 1])
        frames.append(_item(PlanePositionSequence=[_item(ImagePositionPatient=position)], FrameContentSequence=[content]))
    image.PerFrameFunctionalGroupsSequence = frames
    image.PixelData = b"".join(np.ascontiguousarray(volume.data[:, :, k].T.astype("<i2")).tobytes() for k in slices)
    image.save_as(file, enforce_file_format=True)


def _item(**values: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _identify(image: pydicom.Dataset, patient: str) -> None:
    """Fill every field that may hold somebody's name."""
    image.PatientName, image.PatientID = f"{SECRET}^{patient}", f"{SECRET}-{patient}"
    image.PatientBirthDate, image.PatientSex, image.PatientAge = "19520304", "F", "071Y"
    image.PatientAddress = image.PatientComments = image.ImageComments = image.StudyDescription = f"{SECRET} {patient}"
    image.InstitutionName = image.StationName = image.OperatorsName = image.ReferringPhysicianName = f"{SECRET} clinic"
    image.AccessionNumber, image.StudyID, image.OtherPatientIDs = f"{SECRET}1", f"{SECRET}2", f"{SECRET}3"
    image.ProtocolName, image.RequestedProcedureDescription = "head", f"{SECRET} head"
    block = image.private_block(0x0029, "SITE", create=True)
    block.add_new(0x10, "LO", f"{SECRET} private")
