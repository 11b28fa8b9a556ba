"""The command that searches over hyper-parameters."""

from collections.abc import Sequence
from pathlib import Path

from bellmax import UserError, must
from bellmax.launch.cli import options as command_options
from bellmax.launch.distributed.remote import check_local
from bellmax.launch.training.folders import check_writable


def tune(arguments: command_options.Tune, overrides: Sequence[str]) -> int:
    """Search for the best values of keys."""
    if not arguments.space:
        hint = "give --space FILE"
        raise UserError(must("--space", "a YAML file of keys and their values", "nothing", hint))
    name = Path(arguments.source).stem if "." in arguments.source else arguments.source
    default = Path("runs") / f"tune-{name.strip('/').replace('/', '-')}"
    out = Path(arguments.out) if arguments.out else default
    check_local(str(out), "--out")
    check_writable(out, "the folder of a search")
    from bellmax.launch.studies.tune.run import tune

    return tune(
        arguments.source,
        Path(arguments.space),
        out,
        overrides,
        trials=arguments.trials,
        jobs=arguments.jobs,
        check=arguments.check,
        prunes=not arguments.no_pruning,
        trust=arguments.trust,
    )
