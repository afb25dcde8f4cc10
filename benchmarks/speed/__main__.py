"""`python -m robustft.benchmarks.speed [NAMES] [--device cuda --precision bf16 --batch 512]`; names as in SCRIPTS."""

import time

import click

SCRIPTS = {"step": "step", "text": "text_tower", "head": "head", "teacher": "teacher_update",
           "decode": "decode", "path": "path", "commands": "commands", "released": "released"}  # fmt: skip
"""Name on the command line -> module."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(SCRIPTS)))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--batch", type=click.IntRange(min=2), default=8, show_default=True, help="Images or captions a step.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds of turns.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Of the CPU; with one, CPU time.",
)
@click.option("--backbone", default="ViT-B-16", show_default=True, help="Its shape; the weights are random.")
@click.option(
    "--released",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="A checkout of TRACER's released code, for the script of that name.",
)
def main(names: tuple[str, ...], **options) -> None:
    """Ratios of the parts' speed, one line each; without NAMES all of them."""
    from importlib import import_module

    import torch

    from .runner import Settings

    device = options["device"]
    if device != "cpu" and not (device.partition(":")[0] == "cuda" and torch.cuda.is_available()):
        raise click.UsageError(f"--device: must be cpu, or cuda where there is a GPU, got '{device}'.")
    settings = Settings(**options)
    torch.set_num_threads(settings.threads)
    where = torch.cuda.get_device_name(settings.device) if settings.device != "cpu" else f"{settings.threads} threads"
    print(f"{settings.backbone}, random weights, {where}, {settings.precision}, batch {settings.batch}, "
          f"median of {settings.repeats}")  # fmt: skip
    for name in names or SCRIPTS:
        began = time.perf_counter()
        import_module(f"{__package__}.{SCRIPTS[name]}").measure(settings)
        print(f"{'':34} ({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
