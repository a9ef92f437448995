"""DICOM's network services: receive images (C-STORE SCP), send results (C-STORE SCU), answer C-ECHO."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from spool import Spool

from cmb_models.errors import InputError

log = logging.getLogger(__name__)

# Status codes of C-STORE (PS3.4, table B.2-1).
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
STORED = (SUCCESS, 0xB000, 0xB006, 0xB007)  # the last three with a warning, such as an attribute that the PACS replaced
VERIFICATION = "1.2.840.10008.1.1"  # SOP class of C-ECHO
TIMEOUT_S = 30


class Unreachable(Exception):
    """The PACS accepts no association."""


class NotTaken(Exception):
    """The PACS refused a result, or ended the association at it: perhaps this study's alone, so that others are sent."""


@dataclass(frozen=True)
class Peer:
    """Another DICOM application."""

    title: str
    host: str
    port: int


def start_receiver(title: str, port: int, spool: Spool) -> AE:
    """Listen on a port, in other threads, until `shutdown()` of the returned entity."""
    entity = AE(ae_title=title)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    entity.add_supported_context(VERIFICATION)
    entity.start_server(("", port), block=False, evt_handlers=[(evt.EVT_C_STORE, _receive, [spool])])
    return entity


def _receive(event: evt.Event, spool: Spool) -> int:
    """Keep an MR image; results, such as the bridge's own, and other objects are acknowledged and left out."""
    try:
        header = event.dataset
        if header.get("Modality") != "MR" or "Rows" not in header:
            return SUCCESS
        study, instance = str(header.StudyInstanceUID), str(header.SOPInstanceUID)
    except Exception as error:  # damaged data raise nearly everything; the message may hold a name
        log.warning("an object that cannot be read (%s)", type(error).__name__)
        return CANNOT_UNDERSTAND
    try:
        spool.add(study, instance, event.encoded_dataset())
    except InputError as error:
        log.warning("%s", error)
        return CANNOT_UNDERSTAND if error.code == "setting-invalid" else OUT_OF_RESOURCES
    return SUCCESS


def send(files: Sequence[Path], title: str, peer: Peer) -> None:
    """Store files in a PACS. Storing one twice is harmless: it has the same UID.

    Raises:
        Unreachable: If it accepts no association.
        NotTaken: If it refused some, the others being stored, or ended the association or did not answer at one.
    """
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = TIMEOUT_S
    for storage in (Comprehensive3DSRStorage, SegmentationStorage):
        entity.add_requested_context(storage, ExplicitVRLittleEndian)
    association = entity.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        raise Unreachable(f"{peer.title} at {peer.host}:{peer.port} accepts no association")
    refused = []
    try:
        for file in files:
            try:
                status = association.send_c_store(pydicom.dcmread(file))
            except ValueError as error:  # no accepted context for this kind of object
                refused.append(f"{file.name} ({error})")
                continue
            except RuntimeError as error:
                raise NotTaken(f"{peer.title} ended the association before {file.name}") from error
            if "Status" not in status:
                raise NotTaken(f"{peer.title} gave no answer to {file.name}")
            if status.Status not in STORED:
                refused.append(f"{file.name} (status 0x{status.Status:04X})")
    finally:
        association.release()
    if refused:
        raise NotTaken(f"{peer.title} refused {', '.join(refused)}")
