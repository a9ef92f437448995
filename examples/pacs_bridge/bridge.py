"""Detect microbleeds in the studies that a PACS sends, and store the results there: DICOM SR and SEG, attached to the study.

    python examples/pacs_bridge/bridge.py --pacs ORTHANC@127.0.0.1:4242 --spool spool --server 127.0.0.1:8001

Research software, not a medical device.
"""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from network import NotSent, Peer, send, start_receiver
from spool import Spool, Study

from cmb_models.cli.detect import SERVER_ERRORS, open_detector
from cmb_models.detection import Detector
from cmb_models.errors import InputError
from cmb_models.files import claimed
from cmb_models.outputs.answer import Outputs, answer_scan

log = logging.getLogger("bridge")

RETRY_S = 10.0  # after a server or a PACS that could not be reached
MOST_FAILURES = 3  # of the server at one study, before it is given up


def peer_of(text: str) -> Peer:
    """TITLE@HOST:PORT."""
    title, _, address = text.partition("@")
    host, _, port = address.rpartition(":")
    if not (title and host and port.isdigit()):
        raise typer.BadParameter(f"expected TITLE@HOST:PORT, got {text}")
    return Peer(title, host, int(port))


def process(study: Study, spool: Spool, detector: Detector, title: str, pacs: Peer) -> None:
    """Detect in a study and send the results; a study without usable SWI is done with its error code.

    Raises:
        InputError: If the server cannot be reached.
        RuntimeError: If it failed at this study.
        NotSent: If the PACS did not take the results.
    """
    results = spool.results / study.uid
    results.mkdir(exist_ok=True)
    try:
        result = answer_scan(study.uid, study.folder, detector, None, Outputs(results, dicom=True))
    except InputError as error:
        if error.code in SERVER_ERRORS:
            raise
        log.warning("%s", error)
        spool.finish(study, {"code": error.code, "error": str(error)})
        return
    files = sorted(results.glob("*.dcm"))
    send(files, title, pacs)
    spool.finish(
        study, {"code": "", "detections": len(result.detections), "release": result.answer.release if result.answer else 0}
    )
    log.info("%s: %d detections, %d objects sent", study.uid, len(result.detections), len(files))


def run(spool: Spool, detector: Detector, title: str, pacs: Peer, quiet_s: float, ended: threading.Event) -> None:
    """Process studies as they come, until `ended` is set."""
    failures: dict[str, int] = {}
    while not ended.is_set():
        wait_s = 0.5
        for study in spool.ready(quiet_s):
            if ended.is_set():
                break
            try:
                process(study, spool, detector, title, pacs)
            except (InputError, NotSent) as error:
                log.warning("%s; trying again in %g s", error, RETRY_S)
                wait_s = RETRY_S
                break
            except RuntimeError as error:
                failures[study.uid] = failures.get(study.uid, 0) + 1
                log.warning("%s: %s", study.uid, error)
                wait_s = RETRY_S
                if failures[study.uid] >= MOST_FAILURES:
                    spool.finish(study, {"code": "server-failed", "error": str(error)})
        ended.wait(wait_s)


def main(
    pacs: Annotated[str, typer.Option(metavar="TITLE@HOST:PORT", help="Where results are stored.")],
    spool: Annotated[Path, typer.Option(help="Folder for received studies and the state; continued after a crash.")],
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC address of a server.")] = None,
    bundle: Annotated[str | None, typer.Option(help="Without a server: a bundle to run in this process (default: base).")] = None,
    title: Annotated[str, typer.Option(help="Application entity title of the bridge.")] = "MICROBLEEDS",
    port: Annotated[int, typer.Option(help="Port to receive on.")] = 11112,
    quiet_s: Annotated[float, typer.Option(min=0.1, help="Seconds without a new image, after which a study is complete.")] = 30.0,
) -> None:
    """Receive studies, detect, and store SR and SEG in the PACS."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)
    peer, ended = peer_of(pacs), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    detector, source = open_detector(server, bundle)
    with claimed(spool / ".lock", "use this spool"), detector:
        kept = Spool(spool)
        receiver = start_receiver(title, port, kept)
        log.info("%s listens on port %d, detection by %s", title, port, source)
        try:
            run(kept, detector, title, peer, quiet_s, ended)
        finally:
            receiver.shutdown()


if __name__ == "__main__":
    typer.run(main)
