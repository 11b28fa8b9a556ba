"""The commands that give a trained agent to others: export, push and pull."""

from pathlib import Path

from bellmax.launch.cli import options as command_options
from bellmax.launch.training.folders import check_writable, run_folder


def export(arguments: command_options.Export) -> int:
    """Write a policy to a file that runs without bellmax."""
    run, out = run_folder(arguments.run), Path(arguments.out) if arguments.out else None
    check_writable(out.parent if out else run, "the folder of a policy")
    from bellmax.launch.distributed.devices import configure_jax

    configure_jax()
    from bellmax.launch.studies.export import export_run

    which = {"checkpoint": arguments.checkpoint, "seed": arguments.seed}
    options = {**which, "format": arguments.format, "trust": arguments.trust}
    export_run(run, out, say=print, **options)
    return 0


def push(arguments: command_options.Push) -> int:
    """Send a run to a repository."""
    run = run_folder(arguments.run)
    from bellmax.launch.studies.share import push_run

    push_run(run, arguments.repo, private=arguments.private, say=print)
    return 0


def pull(arguments: command_options.Pull) -> int:
    """Fetch a run from a repository."""
    from bellmax.launch.studies.share import pull_run

    pull_run(arguments.repo, Path(arguments.out) if arguments.out else None, say=print)
    return 0
