"""The commands for downstream tasks: finetune, glue, predict, embed, rank."""

from pathlib import Path

from launch.commands.parts import (
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

        def train(init: Path, workdir: Path, oversight) -> int:
            config = load_config(arguments, FINETUNING)
            join_processes(arguments, saves_on_signal=True, leave=oversight.leave)
            oversight.joined()
            if arguments.sweep:
                from launch.finetune.several import sweep

                return sweep(arguments.config, arguments.overrides, arguments.sweep, init, workdir, oversight, accept_changes=arguments.accept_changes)
            from launch.finetune.finetune import finetune

            return finetune(config, init, workdir, oversight, accept_changes=arguments.accept_changes)

        return overseen(arguments, train)

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
    command.add_argument("--sweep", action="append", default=[], metavar="FIELD=V1,V2", help="try these values, each in a directory of its own; repeated: all combinations")
    add_run_options(command)


def add_glue(commands) -> None:
    def run(arguments):
        def train(init: Path, workdir: Path, oversight) -> int:
            join_processes(arguments, saves_on_signal=True, leave=oversight.leave)
            oversight.joined()
            from launch.finetune.several import GLUE, glue

            tasks = tuple(arguments.tasks.split(",")) if arguments.tasks else GLUE
            return glue(tasks, arguments.overrides, init, workdir, oversight, accept_changes=arguments.accept_changes)

        return overseen(arguments, train)

    command = add_command(
        commands, "glue", run, "Fine-tunes and scores a pretrained encoder on the tasks of GLUE, on their development sets. Run again, it continues.",
        "  bert-jax glue --init=runs/base --workdir=runs/base_glue\n  bert-jax glue --init=model --workdir=runs/glue --tasks=rte,mrpc --config.seeds=0,1,2,3,4",
    )
    command.add_argument("--tasks", metavar="NAMES", help="of cola, sst2, mrpc, stsb, qqp, mnli, qnli and rte, parted by commas (default: all)")
    command.set_defaults(takes_overrides=True)
    add_run_options(command)


def add_run_options(command) -> None:
    command.add_argument("--init", metavar="DIR", help="the pretrained model: a workdir (of pretrain, import or finetune) or an exported directory")
    command.add_argument("--workdir", metavar="DIR", help="config, task, tokenizer, scores.json, and in seeds/ each run's checkpoints, log, scores and predictions")
    command.add_argument("--accept-changes", action="store_true", help="continue a workdir's runs although their config, data or pretrained model differ")
    add_oversight_options(command)
    add_process_options(command)


def overseen(arguments, train) -> int:
    """`train(init, workdir, oversight)` with signals, hangs and errors looked after."""
    for name, meaning in (("init", "the pretrained model, a workdir or an exported directory"), ("workdir", "where models, logs and scores go")):
        if getattr(arguments, name) is None:
            raise ValueError(f"give --{name}: {meaning}")
    from launch.oversight import Oversight

    oversight = Oversight(Path(arguments.workdir), grace=arguments.grace, hang_timeout=arguments.hang_timeout)
    return oversight.run(lambda: train(Path(arguments.init), Path(arguments.workdir), oversight))


def add_predict(commands) -> None:
    def run(arguments):
        from launch.finetune.predict import predict

        columns = dict(word.partition("=")[::2] for word in arguments.column)
        predict(Path(arguments.model), arguments.input, arguments.output and Path(arguments.output), columns=columns, batch_size=arguments.batch_size)

    command = add_command(
        commands, "predict", run, "A fine-tuned model's answers for a file of examples, as JSON lines; scores too, where the file has labels.",
        "  bert-jax predict --model=runs/sst2 --input=reviews.csv --output=answers.jsonl\n  bert-jax predict --model=runs/squad --input=dev-v2.0.json > answers.jsonl",
    )
    add_model_options(command, "a fine-tuned workdir, or an exported one")
    command.add_argument("--input", required=True, metavar="FILE", help="examples in a file like the training data's, labels or not; or tfds:NAME:SPLIT")
    command.add_argument("--output", metavar="FILE", help="where the lines go (default: standard output)")
    command.add_argument("--column", action="append", default=[], metavar="ROLE=NAME", help="where a column has another name than in the training data: text=review")


def add_embed(commands) -> None:
    def run(arguments):
        from launch.finetune.embed import embed

        embed(
            Path(arguments.model), Path(arguments.input), Path(arguments.output), pooling=arguments.pooling, normalise=arguments.normalise,
            length=arguments.length, batch_size=arguments.batch_size,
        )

    command = add_command(
        commands, "embed", run, "A vector for each line of a text, in a .npy file.",
        "  bert-jax embed --model=runs/embedder --input=sentences.txt --output=sentences.npy --normalise",
    )
    add_model_options(command, "a workdir or an exported directory, of a pretrained or fine-tuned model")
    command.add_argument("--input", required=True, metavar="FILE", help="UTF-8, a text in each line")
    command.add_argument("--output", required=True, metavar="FILE.npy", help="float32 [lines, hidden size]")
    command.add_argument("--pooling", choices=("cls", "mean", "max"), help="the vector of a text (default: as the model was trained for embeddings, else mean)")
    command.add_argument("--normalise", action="store_true", help="vectors of length 1, whose products are cosines")
    command.add_argument("--length", type=int, default=0, metavar="TOKENS", help="of the longest text; longer ones are cut (default: as trained)")


def add_rank(commands) -> None:
    def run(arguments):
        from launch.finetune.rank import rank

        rank(Path(arguments.model), arguments.query, Path(arguments.input), top=arguments.top, batch_size=arguments.batch_size)

    command = add_command(
        commands, "rank", run, "Passages in the order in which they answer a query.",
        "  bert-jax rank --model=runs/reranker --input=passages.txt 'who wrote the report'",
    )
    add_model_options(command, "fine-tuned for ranking (a cross-encoder), or any other model, whose sentence vectors are compared")
    command.add_argument("--input", required=True, metavar="FILE", help="UTF-8, a passage in each line")
    command.add_argument("--top", type=int, default=10, metavar="N", help="how many are printed (default: 10)")
    command.add_argument("query", metavar="QUERY")


def add_model_options(command, meaning: str) -> None:
    command.add_argument("--model", required=True, metavar="DIR", help=meaning)
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="texts at a time, over all devices (default: 64)")
