"""The options of the commands for downstream tasks."""

from pathlib import Path

from launch.cli_parts import (
    add_command,
    add_config_options,
    add_oversight_options,
    add_process_options,
    join_processes,
    load_config,
    print_config,
)


def add_finetune(commands) -> None:
    from launch.config import describe_fields
    from launch.finetune.fields import FINETUNING

    def run(arguments):
        if arguments.print_config:
            return print_config(load_config(arguments, FINETUNING))
        for name in ("init", "workdir"):
            if getattr(arguments, name) is None:
                raise ValueError({"init": "give --init: the pretrained model, a workdir or an exported directory", "workdir": "give a --workdir: where models, logs and scores go"}[name])
        from launch.oversight import Oversight

        oversight = Oversight(Path(arguments.workdir), grace=arguments.grace, hang_timeout=arguments.hang_timeout)

        def train() -> int:
            config = load_config(arguments, FINETUNING)
            join_processes(arguments, saves_on_signal=True, leave=oversight.leave)
            oversight.joined()
            from launch.finetune.finetune import finetune

            return finetune(config, Path(arguments.init), Path(arguments.workdir), oversight, accept_changes=arguments.accept_changes)

        return oversight.run(train)

    command = add_command(
        commands, "finetune", run,
        "Trains a pretrained encoder for a task, once for each of the config's seeds, and scores it. Run again on the same workdir, it continues.\n"
        "Exit status: 0 finished; 75 stopped by SIGTERM or SIGINT with the state saved (run the same command again); 1 an error; others: docs/training.md.",
        "  bert-jax finetune --config=configs/finetune/sst2.py --init=runs/base --workdir=runs/sst2\n"
        "  bert-jax finetune --config=configs/finetune/classification.py --init=model --workdir=runs/mine \\\n"
        "      --config.task.train=train.csv --config.task.eval=dev.csv --config.task.text=sentence --config.task.label=class\n\n"
        "config fields, set by --config.FIELD=VALUE:\n" + describe_fields(FINETUNING),
    )
    add_config_options(command)
    command.add_argument("--init", metavar="DIR", help="the pretrained model: a workdir (of pretrain, import or finetune) or an exported directory")
    command.add_argument("--workdir", metavar="DIR", help="config, task, tokenizer, scores.json, and in seeds/ each run's checkpoints, log, scores and predictions")
    command.add_argument("--accept-changes", action="store_true", help="continue a workdir's runs although their config, data or pretrained model differ")
    add_oversight_options(command)
    add_process_options(command)
