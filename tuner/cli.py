"""The command line. Heavy imports happen inside the verb that needs them, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from a2sf_core.errors import A2SFError
from tuner.choices import DEFAULT_RULES, RULES, check_choice
from tuner.options import (
    Actors,
    Adapter,
    Check,
    Columns,
    Cut,
    Data,
    Device,
    DeviceMap,
    Dtype,
    Family,
    Limit,
    MaxDegradation,
    Memory,
    Mlflow,
    Model,
    Patience,
    Precision,
    Ray,
    StorageAddress,
    WarmStart,
)
from tuner.printing import one_line, printable, quiet_libraries, write_what_cannot_be_shown
from tuner.service import command as service

if TYPE_CHECKING:
    from tuner.settings import Settings

HELP = """Find, prove and export an A2SF key-value cache pruning policy for your model and your task.

\b
    a2sf-tune --task summarisation --trials 100
    a2sf-tune --task chat --model ./my-model --data calls.jsonl
    a2sf-tune suggest --tokens 3000

\b
`a2sf-serve` serves a model with its policy; `a2sf-tune serve` runs studies for a team.
"""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help=HELP,
    rich_markup_mode=None,
    no_args_is_help=True,
)


NOT_PROVEN = "What the run has proven is not proven there: measure it again."


@app.callback(invoke_without_command=True)
def tune(
    context: typer.Context,
    task: Annotated[str, typer.Option(help="Bundled task (see `a2sf-tune tasks`) or a .yaml file.")] = "summarisation",
    trials: Annotated[int, typer.Option(help="Trials in all; the first ones are the baselines.")] = 100,
    model: Model = "reference",
    data: Data = None,
    column: Columns = None,
    limit: Limit = None,
    data_split: Annotated[str, typer.Option(help="Split of a Hub data set.")] = "test",
    max_degradation: MaxDegradation = 2.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Annotated[int, typer.Option(help="Of the split, the sampler and the intervals.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/TASK-MODEL.")] = None,
    family: Family = "groups",
    per_head: Annotated[bool, typer.Option(help="Let the KV heads of a layer have budgets of their own.")] = True,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What may rank tokens: {', '.join(RULES)}. Repeatable; default {' and '.join(DEFAULT_RULES)}."
        ),
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, tpe-univariate, nsga2, gp or random.")] = "tpe",
    memory: Memory = None,
    warm_start: WarmStart = None,
    patience: Patience = None,
    precision: Precision = None,
    mlflow: Mlflow = None,
    cut: Cut = None,
    adapter: Adapter = None,
    device_map: DeviceMap = None,
    storage: StorageAddress = None,
    study: Annotated[str | None, typer.Option(help="Name of the study in --storage; default TASK-MODEL.")] = None,
    ray: Ray = None,
    actors: Actors = None,
    check: Check = False,
) -> None:
    """Tune; the same command resumes a run that was interrupted."""
    if context.invoked_subcommand is not None:
        return
    quiet_libraries()
    from tuner.inputs.data import parse_columns
    from tuner.settings import Settings

    settings = Settings(
        task=task, trials=trials, model=model, data=data, columns=parse_columns(column or []), limit=limit,
        data_split=data_split, max_degradation=max_degradation, device=device, dtype=dtype, seed=seed, out=out,
        family=family, per_head=per_head, rules=tuple(rule or DEFAULT_RULES), sampler=sampler,
        memory=memory, warm_start=tuple(warm_start or ()), patience=patience, precision=precision, mlflow=mlflow,
        cut=cut, adapter=adapter, device_map=device_map, storage=storage, study=study,
        ray=ray, actors=actors,
    )  # fmt: skip
    if check:
        from tuner.inputs.check import check as read
        from tuner.reporting.forecast import preview

        typer.echo(preview(settings, read(settings)))
    else:
        _tune(settings)


def _tune(settings: Settings) -> None:
    """Run the job with its steps on the screen, and show what it found."""
    from tuner.inputs.check import check

    inputs = check(settings)

    from tuner.reporting.console import screen, watching

    console = screen()
    try:
        with watching(console) as watch:
            watch.step("Starting")
            from tuner import run
            from tuner.reporting.screen import show
            from tuner.search.kept import EndsElsewhere

            try:
                result = run.tune(settings, inputs, watch)
            except EndsElsewhere as end:
                watch.say(str(end))
                return
        show(console, result)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Every finished trial is kept; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None


@app.command()
def tasks() -> None:
    """List the bundled tasks."""
    from tuner.inputs.tasks import bundled_tasks, load_task

    for name in bundled_tasks():
        task = load_task(name)
        typer.echo(f"{name:<15} {task.title}. {task.description.strip()}")


@app.command()
def validate(
    task: Annotated[str, typer.Argument(help="Bundled task or a .yaml file.")],
    data: Data = None,
    model: Model = "reference",
    column: Columns = None,
    max_degradation: MaxDegradation = 2.0,
    limit: Limit = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    cut: Cut = None,
    adapter: Adapter = None,
    device_map: DeviceMap = None,
) -> None:
    """Show a task's first prompt, its parts and the full cache's score, without a search."""
    quiet_libraries()
    from tuner.inputs.check import check
    from tuner.inputs.data import parse_columns
    from tuner.settings import Settings

    settings = Settings(
        task, 1, model=model, data=data, columns=parse_columns(column or []), limit=limit,
        max_degradation=max_degradation, device=device, dtype=dtype, cut=cut, adapter=adapter,
        device_map=device_map,
    )  # fmt: skip
    inputs = check(settings)
    from tuner.judging.validation import first_look

    for word, said in first_look(settings, inputs):
        typer.echo(printable(f"{word:<10}{said}" if word else said))


@app.command()
def suggest(
    tokens: Annotated[int, typer.Option(help="Length of the input in tokens.")],
    run: Annotated[Path | None, typer.Option(help="Run folder or a2sf_config.json; default: the latest run.")] = None,
) -> None:
    """Suggest alpha for an input of a given length, from a finished run."""
    from tuner.alpha.advice import suggest_alpha

    typer.echo(printable(suggest_alpha(tokens, run)))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder or a2sf_config.json.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What is made: a new folder, or an earlier export.")],
    format: Annotated[
        str,
        typer.Option(help="transformers: weights, policy and custom_generate/; openvino or kvpress: the nearest "
                          "settings, as Python and JSON, and what they lose."),
    ] = "transformers",
    model: Annotated[
        str | None, typer.Option(help="For transformers, the model that the run tuned: a folder, a name on the Hub.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of linking them.")] = False,
    tokens: Annotated[
        int, typer.Option(help="Length of a prompt, for openvino, which knows no shares of it.", min=2)
    ] = 1000,
) -> None:  # fmt: skip
    """Take a policy to another engine: a folder that `transformers serve` prunes with, or the nearest settings."""
    from tuner.serving.export import FORMATS, export_nearest, export_transformers

    check_choice("--format", format, FORMATS)
    quiet_libraries()
    if format != "transformers":
        paths, found = export_nearest(run, folder, format, tokens)
        said = [*map(str, paths), *(f"Lost: {each}" for each in found.lost), NOT_PROVEN]
        typer.echo(printable("\n".join(said)))
        return
    if model is None:
        raise A2SFError("--format transformers links the weights into the folder; give the model with --model.")
    made = export_transformers(run, folder, model, copy)
    typer.echo(printable(f"{made}\nServe it with: transformers serve {made} --trust-remote-code"))


@app.command()
def register(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    name: Annotated[str, typer.Argument(help="Of the registered model, e.g. a2sf-chat; made if it is not there.")],
    alias: Annotated[
        str | None, typer.Option(help="Default: champion if the policy is proven, else challenger.")
    ] = None,
    mlflow: Mlflow = None,
    model: Annotated[str | None, typer.Option(help="What the policy is for, where the run does not say.")] = None,
    adapter: Adapter = None,
) -> None:
    """Register a run's policy in MLflow, where `a2sf-serve --config models:/NAME@champion` takes it up."""
    quiet_libraries()
    from tuner.tracking.registry import register as put

    made = put(run, name, alias, mlflow, model, adapter)
    found = "" if made.is_new else " (the registry had it already)"
    typer.echo(printable(f"{made.uri} is version {made.version} of {made.name}{found}."))


for verb in (service.serve, service.worker, service.token):
    app.command()(verb)


def main() -> None:
    """Entry point: bad input is one sentence on stderr and exit code 2."""
    write_what_cannot_be_shown()
    try:
        app()
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except MemoryError:
        typer.echo("a2sf-tune: there is not enough memory; free some, or give --memory or a smaller model.", err=True)
        sys.exit(2)
    except OSError as error:  # a name too long, too many open files
        where = f" {error.filename}" if error.filename else ""
        typer.echo(f"a2sf-tune: cannot use{one_line(where)} ({error.strerror or one_line(str(error))}).", err=True)
        sys.exit(2)
    except A2SFError as error:
        typer.echo(f"a2sf-tune: {one_line(str(error))}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
