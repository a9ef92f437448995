"""Detect microbleeds in the studies that a PACS sends, and store the results there: DICOM SR and SEG, attached to the study.

    python examples/pacs_bridge/bridge.py --pacs ORTHANC@127.0.0.1:4242 --spool spool --server 127.0.0.1:8001

Research software, not a medical device.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from network import NotTaken, Peer, Unreachable, send, start_receiver
from spool import Spool, Study

from cmb_models.cli.detect import SERVER_ERRORS, open_detector
from cmb_models.detection import Detector
from cmb_models.errors import InputError
from cmb_models.files import FULL, claimed, read_json, write_json
from cmb_models.outputs.answer import Outputs, answer_scan

log = logging.getLogger("bridge")

RETRY_S = 10.0  # after a server or a PACS that could not be reached
MOST_FAILURES = 3  # at one study, before the others are not held up by it any longer
OF_A_STUDY = ("scan-", "phase-", "import-", "dicom-")  # first letters of the codes of faults in images
CONVERSION_TIMEOUT, SERVER_TIMEOUT = "import-timeout", "server-timeout"  # of a busy machine, or of one scan
# Codes with which every study fails until someone mends it.
WAITED_FOR = {*SERVER_ERRORS, "disk-full", "folder-not-writable"}


def peer_of(text: str) -> Peer:
    """TITLE@HOST:PORT."""
    title, _, address = text.partition("@")
    host, _, port = address.rpartition(":")
    if not (title and host and port.isdigit()):
        raise typer.BadParameter(f"expected TITLE@HOST:PORT, got {text}")
    return Peer(title, host, int(port))


def process(study: Study, spool: Spool, detector: Detector, title: str, pacs: Peer) -> None:
    """Detect in a study and send the results; a study without usable SWI is done with its error code.

    Results that were made and not sent are sent, without detecting again.

    Raises:
        InputError: If the server or this machine is at fault.
        RuntimeError: If the server failed at this study.
        Unreachable, NotTaken: If the PACS did not take the results.
    """
    results = spool.results / study.uid
    made = results / "made.json"
    found = read_json(made) if made.is_file() else {}
    if found.get("images") != study.images:
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        try:
            result = answer_scan(study.uid, study.folder, detector, None, Outputs(results, dicom=True))
        except InputError as error:
            if not error.code.startswith(OF_A_STUDY) or error.code == CONVERSION_TIMEOUT:
                raise
            log.warning("%s", error)
            spool.finish(study, error.code, error=str(error))
            return
        release = result.answer.release if result.answer else 0
        found = {"images": study.images, "detections": len(result.detections), "release": release}
        write_json(made, found)
    files = sorted(results.glob("*.dcm"))
    send(files, title, pacs)
    spool.finish(study, "", detections=found["detections"], release=found["release"])
    log.info("%s: %d detections, %d objects sent", study.uid, found["detections"], len(files))


def run(spool: Spool, work: Callable[[Study], None], quiet_s: float, keep_s: float, ended: threading.Event) -> None:
    """Process studies as they come, until `ended` is set. A study that fails does not hold up the others."""
    failures: Counter[str] = Counter()
    while not ended.is_set():
        try:
            wait_s = 0.5
            for study in spool.ready(quiet_s, keep_s):
                if ended.is_set():
                    break
                try:
                    work(study)
                    failures.pop(study.uid, None)
                except Exception as error:
                    if is_waited_for(error):
                        raise  # the others would fail, too
                    log.warning("%s: %s; trying again in %g s", study.uid, described(error), RETRY_S)
                    wait_s = RETRY_S
                    failures[study.uid] += getattr(error, "code", "") != SERVER_TIMEOUT
                    if failures[study.uid] >= MOST_FAILURES:
                        code = "result-refused" if isinstance(error, NotTaken) else "failed"
                        spool.finish(study, code, again=True, error=described(error))
                        del failures[study.uid]
        except Exception as error:  # of the spool, too, such as a full disk
            log.warning("%s; trying again in %g s", described(error), RETRY_S)
            wait_s = RETRY_S
        ended.wait(wait_s)


def is_waited_for(error: Exception) -> bool:
    """Whether no study is at fault, and all fail until someone mends it."""
    if isinstance(error, InputError):
        return error.code in WAITED_FOR
    full_or_forbidden = isinstance(error, OSError) and (error.errno in (*FULL, errno.EROFS) or isinstance(error, PermissionError))
    return isinstance(error, Unreachable) or full_or_forbidden


def described(error: Exception) -> str:
    """The message, unless it may hold values of headers, such as names."""
    return str(error) if isinstance(error, InputError | Unreachable | NotTaken) else type(error).__name__


def main(
    pacs: Annotated[str, typer.Option(metavar="TITLE@HOST:PORT", help="Where results are stored.")],
    spool: Annotated[Path, typer.Option(help="Folder for received studies and the state; continued after a crash.")],
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC address of a server.")] = None,
    bundle: Annotated[str | None, typer.Option(help="Without a server: a bundle to run in this process (default: base).")] = None,
    title: Annotated[str, typer.Option(help="Application entity title of the bridge.")] = "MICROBLEEDS",
    port: Annotated[int, typer.Option(help="Port to receive on.")] = 11112,
    quiet_s: Annotated[float, typer.Option(min=0.1, help="Seconds without a new image, after which a study is complete.")] = 30.0,
    keep_h: Annotated[float, typer.Option(min=0, help="Hours that a study's images are kept, for late ones.")] = 1.0,
) -> None:
    """Receive studies, detect, and store SR and SEG in the PACS."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for library in ("pynetdicom", "pydicom", "highdicom"):  # their messages may hold values of headers
        logging.getLogger(library).setLevel(logging.CRITICAL)
    os.umask(0o077)
    peer, ended = peer_of(pacs), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        detector, source = open_detector(server, bundle)
        with claimed(spool / ".lock", "use this spool"), detector:
            kept = Spool(spool)
            receiver = start_receiver(title, port, kept)
            log.info("%s listens on port %d, detection by %s", title, port, source)
            try:
                run(kept, lambda study: process(study, kept, detector, title, peer), quiet_s, 3600 * keep_h, ended)
            finally:
                receiver.shutdown()
    except InputError as error:
        log.error("%s", error)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
