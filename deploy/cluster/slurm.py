"""A Dask scheduler on this machine with workers as SLURM jobs, for CMB_SCHEDULER (docs/how-to/cluster.md).

    python slurm.py --workers 8 --queue normal

Runs until Ctrl-C, which ends scheduler and jobs. Start it in the workspace, on storage that the nodes share. PBS and LSF differ in
the class alone: PBSCluster, LSFCluster of dask_jobqueue.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from dask_jobqueue import SLURMCluster


def main(
    workers: Annotated[int, typer.Option(min=1, help="Jobs, of one worker each.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Cores of a job. The weights depend on this number.")] = 4,
    memory: Annotated[str, typer.Option(help="Of a job.")] = "8GB",
    queue: Annotated[str | None, typer.Option(help="SLURM partition.")] = None,
    account: Annotated[str | None, typer.Option(help="SLURM account.")] = None,
    walltime: Annotated[str, typer.Option(help="Of a job; its work continues in another from the last checkpoint.")] = "04:00:00",
    gpus: Annotated[int, typer.Option(min=0, max=1, help="GPUs of a job.")] = 0,
    interface: Annotated[str | None, typer.Option(help="Network interface that the nodes reach, such as ib0.")] = None,
    port: Annotated[int, typer.Option(help="Of the scheduler.")] = 8786,
    print_job: Annotated[bool, typer.Option("--print-job", help="Print the job script and end.")] = False,
) -> None:
    """Start scheduler and workers, and print the address."""
    directives = [f"--gres=gpu:{gpus}"] if gpus else []
    with SLURMCluster(
        cores=threads,
        processes=1,
        memory=memory,
        queue=queue,
        account=account,
        walltime=walltime,
        interface=interface,
        job_extra_directives=directives,
        nanny=False,  # a job that ends is not restarted within its allocation: its work goes to another one
        log_directory=str(Path.cwd() / "slurm-logs"),
        scheduler_options={"port": port, "dashboard": False},
    ) as cluster:
        if print_job:
            typer.echo(cluster.job_script())
            return
        cluster.scale(jobs=workers)
        typer.echo(f"export CMB_SCHEDULER={cluster.scheduler_address}")
        ended = threading.Event()
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, lambda *_: ended.set())
        ended.wait()


if __name__ == "__main__":
    typer.run(main)
