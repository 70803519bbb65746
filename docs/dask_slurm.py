"""A Dask cluster in Slurm's jobs: eight nodes of sixteen workers, until this script is interrupted.

    pip install dask-jobqueue
    python docs/dask_slurm.py       on a node that the others reach, in the project's folder, which all nodes share

It prints the value for CLUSTER. The jobs start their workers in the folder in which this script was started.
"""

import signal

from dask_jobqueue import SLURMCluster

NODES = 8


def slurm_cluster() -> SLURMCluster:
    """Start the scheduler in this process. A worker has one thread: decoders and DVC do not share a process well."""
    return SLURMCluster(
        job_name="lastbit",
        cores=16,
        processes=16,
        memory="64GB",
        walltime="12:00:00",
        python=".venv/bin/python",
        death_timeout=600,  # seconds without the scheduler after which a worker ends
        scheduler_options={"port": 8786, "dashboard_address": ":8787"},
    )


if __name__ == "__main__":
    with slurm_cluster() as cluster:
        cluster.scale(jobs=NODES)
        print(f"export CLUSTER={cluster.scheduler_address}", flush=True)
        signal.pause()
