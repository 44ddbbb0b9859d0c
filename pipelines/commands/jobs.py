"""`unclip status`, `unclip logs` and `unclip stop`: a run on a cluster."""

import argparse

from pipelines import submit


def run(arguments: argparse.Namespace) -> None:
    """Do what the verb says with one job."""
    if arguments.verb == "status":
        print(submit.status(arguments.job, address=arguments.address))
    elif arguments.verb == "logs":
        submit.logs(arguments.job, address=arguments.address, follow=arguments.follow)
    else:
        print(submit.stop(arguments.job, address=arguments.address))
