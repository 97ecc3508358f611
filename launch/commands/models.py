"""The commands that exchange models and use them as they are: export, import, grow, fill-mask."""

import sys
from pathlib import Path

from launch.commands.parts import add_command, add_config_options, with_config


def add_export(commands) -> None:
    def run(arguments):
        from launch.exchange import export, export_lora

        if arguments.adapter:
            if arguments.verify or arguments.pooling:
                raise ValueError("--adapter writes what LoRA learnt alone, which goes with neither --verify nor --pooling; export the model without --adapter for these")
            return export_lora(Path(arguments.workdir), Path(arguments.output), step=arguments.step)
        export(Path(arguments.workdir), Path(arguments.output), step=arguments.step, check=arguments.verify, pooling=arguments.pooling)

    command = add_command(
        commands, "export", run, "Writes a checkpoint as a Hugging Face directory: safetensors, config, tokenizer, model card.",
        "  bert-jax export --workdir=runs/mini --output=mini --verify\n"
        "  bert-jax export --workdir=runs/mini --output=sentences --pooling=mean --verify     (for sentence-transformers)\n"
        "  bert-jax export --workdir=runs/sst2_lora --output=adapter --adapter     (for PEFT)",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")
    command.add_argument("--output", required=True, metavar="DIR")
    command.add_argument("--step", type=int, help="which checkpoint (default: the newest; of a fine-tuned workdir the best seed's best)")
    command.add_argument(
        "--verify", action="store_true",
        help="load it with stock transformers, compare every layer and the logits, and refuse on mismatch (needs bert-jax[torch])",
    )
    command.add_argument(
        "--pooling", choices=("mean", "cls", "max"),
        help="the encoder alone, as a model of sentence-transformers: the vector of a text is the mean or the largest of its tokens', or the first token's",
    )
    command.add_argument("--adapter", action="store_true", help="of a model fine-tuned with LoRA: what that learnt, and the head, for PEFT over the same pretrained model")


def add_import(commands) -> None:
    def run(arguments):
        from launch.exchange import import_model

        import_model(Path(getattr(arguments, "from")), Path(arguments.workdir), tokenizer=None if arguments.tokenizer is None else Path(arguments.tokenizer))

    command = add_command(
        commands, "import", run,
        "Reads a BERT, RoBERTa, XLM-R, ALBERT, ELECTRA, DeBERTa, DistilBERT, ModernBERT, Longformer or BigBird into a workdir for continued pretraining. Missing pretraining heads are initialised, and it says so.",
        "  bert-jax import --from=bert-base-uncased --workdir=runs/domain\n"
        "  bert-jax import --from=uncased_L-12_H-768_A-12 --workdir=runs/domain     (bert_model.ckpt + bert_config.json + vocab.txt)",
    )
    command.add_argument("--from", required=True, metavar="DIR", help="a Hugging Face directory, or an original TensorFlow checkpoint's")
    command.add_argument("--workdir", required=True, metavar="DIR")
    command.add_argument("--tokenizer", metavar="DIR", help="of `bert-jax extend-tokenizer`: rows of its further words begin as the mean of their old pieces'")


def add_grow(commands) -> None:
    @with_config
    def run(arguments, config):
        from launch.first_weights import grow_model

        grow_model(Path(getattr(arguments, "from")), config, Path(arguments.workdir))

    command = add_command(
        commands, "grow", run, "Starts a larger model from a smaller one: of its family, by tiling (ModernBERT-large from base); for longer inputs, by copied positions (Longformer from RoBERTa).",
        "  bert-jax grow --from=runs/modernbert_base --config=configs/modernbert_large.py --workdir=runs/modernbert_large\n"
        "  bert-jax pretrain --config=configs/modernbert_large.py --workdir=runs/modernbert_large --config.data.path=store\n"
        "  bert-jax grow --from=roberta-base --config=configs/longformer_base.py --workdir=runs/longformer",
    )
    command.add_argument("--from", required=True, metavar="DIR", help="the smaller model: a workdir or a Hugging Face directory")
    add_config_options(command)
    command.add_argument("--workdir", required=True, metavar="DIR")


def add_fill_mask(commands) -> None:
    def run(arguments):
        from launch.fill_mask import print_predictions

        print_predictions(Path(arguments.model), arguments.text or [line.rstrip("\n") for line in sys.stdin], arguments.top)

    command = add_command(
        commands, "fill-mask", run, "Predicts the words behind [MASK], which may also be written as the model's own mask token, such as <mask>.",
        "  bert-jax fill-mask --model=mini 'The file could not be [MASK].'\n  bert-jax fill-mask --model=runs/mini --top=3 < sentences.txt",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="an exported directory or a workdir")
    command.add_argument("--top", type=int, default=5, help="predictions per mask (default: 5)")
    command.add_argument("text", nargs="*", metavar="TEXT", help="sentences with [MASK]; read from standard input if none is given")
