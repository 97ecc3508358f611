"""The options of `bert-jax demo`."""

from pathlib import Path

from launch.commands.parts import add_command

PORT = 8777


def add_demo(commands) -> None:
    def run(arguments):
        from launch.demo.server import demo

        return demo(Path(arguments.model), arguments.host, arguments.port, opens=arguments.open)

    command = add_command(
        commands, "demo", run,
        "A page on this machine to try a model on: predictions for masks, what tokens attend to, how alike sentences are.\n"
        "What the model has is shown: of ELECTRA which tokens look replaced, of a fine-tuned model its classes.",
        "  bert-jax demo --model=mini\n  bert-jax demo --model=runs/sst2 --port=9000 --open\n"
        f"  ssh -L {PORT}:localhost:{PORT} HOST     (then, there: a model on another machine, the page on this one)",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="a workdir or an exported directory, of a pretrained or fine-tuned model")
    command.add_argument("--port", type=int, default=PORT, metavar="PORT", help=f"where the page is (default: {PORT}; 0: any that is free)")
    command.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="an address of this machine (default: 127.0.0.1, which no other machine reaches)")
    command.add_argument("--open", action="store_true", help="open the page in this machine's browser")
