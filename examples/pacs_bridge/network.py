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
VERIFICATION = "1.2.840.10008.1.1"  # SOP class of C-ECHO
TIMEOUT_S = 30


class NotSent(Exception):
    """The PACS cannot be reached, or did not take a result."""


@dataclass(frozen=True)
class Peer:
    """Another DICOM application."""

    title: str
    host: str
    port: int


def start_receiver(title: str, port: int, spool: Spool) -> AE:
    """Listen on a port, in threads of its own; `shutdown()` of what is returned ends it."""
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
        NotSent: If not all were taken.
    """
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = TIMEOUT_S
    for storage in (Comprehensive3DSRStorage, SegmentationStorage):
        entity.add_requested_context(storage, ExplicitVRLittleEndian)
    association = entity.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        raise NotSent(f"{peer.title} at {peer.host}:{peer.port} accepts no association")
    try:
        for file in files:
            try:
                status = association.send_c_store(pydicom.dcmread(file))
            except (ValueError, RuntimeError) as error:  # no accepted context, or the association has ended
                raise NotSent(f"{peer.title} does not take {file.name}: {error}") from error
            if "Status" not in status or status.Status != SUCCESS:
                got = f"status 0x{status.Status:04X}" if "Status" in status else "no answer"
                raise NotSent(f"{peer.title} does not take {file.name}: {got}")
    finally:
        association.release()
