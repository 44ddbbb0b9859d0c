"""`unclip status`, `unclip logs` and `unclip stop`: a run on a cluster."""

import argparse

from pipelines.submit import jobs


def run(arguments: argparse.Namespace) -> None:
    """Do what the verb says with one job."""
    if arguments.verb == "status":
        print(jobs.status(arguments.job, address=arguments.address))
    elif arguments.verb == "logs":
        jobs.logs(arguments.job, address=arguments.address, follow=arguments.follow)
    else:
        print(jobs.stop(arguments.job, address=arguments.address))
