"""Writes a network, dense or pruned, as files that other programs run, and tries each out against the network itself.

python -m bench.export --ckpt ./runs/taylor_pruned/pruned_model.pt --format onnx,torch-export --save ./exported
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.checks import refuse_flags, require_flags
from bench.cli.parser import Parser, collect
from bench.config.values import parse_size
from bench.export.options import ExportOptions
from bench.measure.options import TimingOptions
from bench.models.options import ModelOptions
from bench.system.options import RunOptions

_UNTIMED = ("latency_batch", "latency_amp", "latency_channels_last", "latency_compile", "per_layer")


def build_parser() -> Parser:
    """The command line of `python -m bench.export`."""
    parser = Parser(
        "python -m bench.export",
        "Writes a network as files that other programs run; each must give the network's logits to 1e-4.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--ckpt", metavar="FILE", help="the network: any file that a command wrote (required)")
    files.add_argument("--save", metavar="DIR", help="where the files go (required)")
    parser.add_options("export", ExportOptions)
    advice = (
        "in place of files: where a pruned network's saving is lost, and which --round-to pays on this machine, "
        "measured; with --save advice.json"
    )
    parser.add_switch(files, "--advise", help=advice)
    size = "size of the images (default: what the network was trained at)"
    parser.add_value(files, "--input-size", parse_size, metavar="H,W", help=size)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",))
    parser.add_options("timing beside PyTorch, by turns", TimingOptions, skip=_UNTIMED, latency=False)
    parser.add_options("run", RunOptions, skip=("device", "seed", "deterministic"))
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and exports."""
    arguments = build_parser().parse(argv)
    require_flags(arguments, "ckpt", *(() if arguments.advise else ("save", "format")))
    if arguments.advise:
        refuse_flags(arguments, "--advise writes no network", "format")

    from bench.export.folder import export, told
    from bench.jobs.advice import write_advice
    from bench.measure.latency import Effort
    from bench.models.checkpoint import load_model
    from bench.report.console_tables import advice_tables
    from bench.system.console import console, say
    from bench.system.devices import set_up

    options = collect(ExportOptions, arguments)
    set_up(collect(RunOptions, arguments, device="cpu"))
    effort = Effort.of(collect(TimingOptions, arguments)) if arguments.latency else None
    saved = load_model(arguments.ckpt, **collect(ModelOptions, arguments).in_file)
    if arguments.advise:
        effort = Effort.of(collect(TimingOptions, arguments))
        advice = write_advice(arguments.ckpt, saved, effort, arguments.save, input_size=arguments.input_size)
        for table in advice_tables(advice):
            console().print(table)
        return
    record = export(
        arguments.ckpt,
        saved,
        Path(arguments.save),
        options.format,
        input_size=arguments.input_size,
        fixed=options.fixed,
        opset=options.opset,
        effort=effort,
    )
    for line in told(record):
        say(line)
    say(f"-> {arguments.save}, with a README of how each is used")
