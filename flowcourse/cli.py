"""The command line: `flowcourse COMMAND`, or `python -m flowcourse COMMAND`.

A command is one entry of `COMMANDS`: a name, a line of help, a function that declares its arguments
and one that runs it. Heavy imports stay inside, so that `--help` answers at once.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: what the user types.
        help: one line.
        configure: adds its arguments to a parser.
        run: does the work and returns the exit status.
    """

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


# train


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", help="a topic with a model, see `flowcourse topics`")
    parser.add_argument("--data", help="a data set instead of the preset's")
    parser.add_argument("--preset", default="laptop", help="laptop (default) or another")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="default: auto")
    parser.add_argument("--devices", type=int, metavar="N", help="processes, each on a device")
    parser.add_argument("--precision", help="32-true (default), 64-true or bf16-mixed")
    parser.add_argument("--seed", type=int, metavar="K", help="default: 0")
    parser.add_argument("--steps", type=int, metavar="N", help="parameter updates")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/ and a name")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="continue a run that was interrupted (default), or delete it and start again",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be trained: layers, memory on each device, batches; in seconds",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="options",
        help="another training option, model.OPTION or data.OPTION; may be repeated",
    )


def _train(args: argparse.Namespace) -> int:
    from flowcourse.training import runs, train
    from flowcourse.training.dry_run import dry_run

    options = dict(_option(text) for text in args.options)
    shorthand = {
        "accelerator": args.device,
        "devices": args.devices,
        "precision": args.precision,
        "seed": args.seed,
        "steps": args.steps,
    }
    options |= {name: value for name, value in shorthand.items() if value is not None}
    plan = runs.plan(args.topic, args.preset, data=args.data, options=options)
    if args.dry_run:
        print(dry_run(plan))
        return 0
    description = {**plan.description(), "command": args.command_line}
    data = runs.load_data(description)
    model = runs.build(description, data, plan.config.seed)
    folder = args.out or Path("runs") / plan.name
    result = train(model, data, plan.config, folder, resume=args.resume, description=description)
    _say(
        f"{result.steps} steps in {result.seconds:.0f} s, saved in {folder}.\n"
        f"Next: flowcourse evaluate {folder}\n"
        f"      flowcourse sample {folder}"
    )
    return 0


def _option(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; the value is JSON where it can be (numbers, true, null), else a string."""
    from flowcourse.training import RunError

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RunError(f"--set expects KEY=VALUE and got {text!r}, for example --set ema=0.99.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


# evaluate


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run folder, or a checkpoint of book/results")
    parser.add_argument("--draws", type=int, default=64, help="of the importance-weighted bound")
    parser.add_argument("--repeats", type=int, default=8, help="draws averaged in the plain bound")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def _evaluate(args: argparse.Namespace) -> int:
    from flowcourse import training
    from flowcourse.training import runs
    from flowcourse.training.devices import pick_device
    from flowcourse.training.storage import write_json

    description = training.read_run(args.run)
    model = training.load(args.run).to(pick_device(args.device))
    data = runs.load_data(description)
    context = training.context_for(model, data, "test")
    result = training.evaluate(
        model, data.test, args.repeats, args.draws, args.seed, context=context
    )
    record = {**result.asdict(), "data": description["data"], "entropy_nats": data.entropy_nats}
    write_json(args.run / "evaluation.json", record)

    print(f"{args.run}: {result.n} test examples of {data.name}, mean ± standard error")
    if result.bits_per_dim is None:
        print(f"  nats, exact: {_pm(result.nats, result.standard_error_nats)}")
        if data.entropy_nats is not None:
            print(f"  entropy of the data, which no model beats: {data.entropy_nats:.4f}")
    else:
        how = f"bound, {result.repeats} draws averaged" if result.kind == "bound" else "exact"
        print(f"  bits/dim, {how}: {_pm(result.bits_per_dim, result.standard_error)}")
    if result.bits_per_dim_iw is not None:
        weighted = _pm(result.bits_per_dim_iw, result.standard_error_iw)
        print(f"  bits/dim, importance-weighted bound, {result.draws} draws: {weighted}")
    for name, value in result.figures.items():
        print(f"  {name}: {value:.4g}")
    print(f"Saved in {args.run / 'evaluation.json'}.")
    return 0


def _pm(value: float, error: float | None) -> str:
    return f"{value:.4f} ± {error:.4f}"


# sample


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run folder, or a checkpoint of book/results")
    parser.add_argument("--n", type=int, help="default: 64 images, or 2000 points")
    parser.add_argument("--temperature", type=float, default=1.0, help="default: 1")
    parser.add_argument("--seed", type=int, default=0)


def _sample(args: argparse.Namespace) -> int:
    from flowcourse import training
    from flowcourse.training import runs
    from flowcourse.training.pictures import save_samples

    data = runs.load_data(training.read_run(args.run))
    n = args.n or (64 if len(data.event_shape) == 3 else 2000)
    model = training.load(args.run)
    for path in save_samples(model, data, args.run, n, args.temperature, args.seed):
        print(f"Saved {path}.")
    return 0


# grade


def _grade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assignment", help="a problem set that was released and handed in")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one a core")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, to use that")
    parser.add_argument(
        "--only",
        choices=("new", "changed"),
        default="new",
        help="new: all that is not graded in its present state (default); "
        "changed: of that, what was graded in another state",
    )
    parser.add_argument("--student", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--regrade", action="store_true", help="grade again what is graded")
    parser.add_argument("--course", type=Path, default=Path(), metavar="DIR", help="default: here")
    parser.add_argument("--seed", type=int, metavar="K", help="of the inputs; default: fresh")
    parser.add_argument(
        "--feedback", action=argparse.BooleanOptionalAction, default=True, help="default: write it"
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="run submissions without a sandbox, as you: only for code that you trust",
    )
    parser.add_argument(
        "--reproduce",
        action="store_true",
        help="judge again what is graded, with the recorded inputs and limits, and compare; "
        "changes nothing",
    )


def _grade(args: argparse.Namespace) -> int:
    import os

    from flowcourse.grading.classroom import Options, grade, table
    from flowcourse.grading.course import repository
    from flowcourse.grading.sandbox import UNSAFE

    if args.unsafe:
        print(UNSAFE, file=sys.stderr)
    workers = args.workers or os.cpu_count() or 1
    if args.reproduce:
        return _reproduce(args, workers)
    options = Options(unsafe=args.unsafe, **({} if args.seed is None else {"seed": args.seed}))
    entries = grade(
        args.assignment,
        args.course,
        repository(),
        options,
        workers=workers,
        scheduler=args.scheduler,
        only="all" if args.regrade else args.only,
        students=args.student,
        feedback=args.feedback,
    )
    print(table(args.assignment, entries))
    print(f"In {args.course}: gradebook.db, autograded/, feedback/, grading/ (each exercise).")
    print(f"What the class has understood: flowcourse report {args.assignment}")
    return 0


def _reproduce(args: argparse.Namespace, workers: int) -> int:
    from flowcourse.grading.course import repository
    from flowcourse.grading.reproduce import reproduce

    found = reproduce(
        args.assignment,
        args.course,
        repository(),
        workers=workers,
        scheduler=args.scheduler,
        students=args.student,
        unsafe=args.unsafe,
    )
    print("\n".join(map(str, found)))
    equal = sum(one.equal for one in found)
    print(f"{equal} of {len(found)} grades reproduced exactly; nothing was changed.")
    return 0 if equal == len(found) else 1


# report


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assignment", help="a problem set graded by `flowcourse grade`")
    parser.add_argument("--course", type=Path, default=Path(), metavar="DIR", help="default: here")


def _report(args: argparse.Namespace) -> int:
    from flowcourse.grading.course import repository
    from flowcourse.grading.report import write_report

    for path in write_report(args.assignment, args.course, repository()):
        print(f"Saved {path}.")
    return 0


# The others


def _results_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="TOPIC", help="default: all that a laptop can train")
    parser.add_argument("--preset", metavar="NAME", help="default: all that a laptop can train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the runs that are there (default), or train again",
    )


def _results(args: argparse.Namespace) -> int:
    from flowcourse import results

    return results.main(
        args.only,
        args.seeds,
        preset=args.preset,
        resume=args.resume,
        command=args.command_line,
    )


def _topics(args: argparse.Namespace) -> int:
    from flowcourse.catalog import TOPICS

    for topic in TOPICS:
        presets = ", ".join(f"{name} ({p.data})" for name, p in topic.presets.items())
        print(f"{topic.name:<22} {topic.part:<14} {presets or 'no model to train'}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from flowcourse import doctor

    return doctor.main()


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


COMMANDS: tuple[Command, ...] = (
    Command("train", "train a topic's model", _train_arguments, _train),
    Command("evaluate", "measure a run on test data", _evaluate_arguments, _evaluate),
    Command("sample", "draw from a run: pictures and numbers", _sample_arguments, _sample),
    Command("results", "measure every number of book/results", _results_arguments, _results),
    Command("grade", "grade a class with sandbox and workers", _grade_arguments, _grade),
    Command("report", "say what a class has understood", _report_arguments, _report),
    Command("topics", "list the topics and their presets", _no_arguments, _topics),
    Command("doctor", "say what is installed and what is missing", _no_arguments, _doctor),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, 2 if it was asked for something impossible."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="flowcourse", description="Train, measure and check.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(command.name, help=command.help, description=command.help)
        command.configure(subparser)
        subparser.set_defaults(run_command=command.run)
    args = parser.parse_args(arguments)
    args.command_line = shlex.join(["flowcourse", *arguments])
    return _guarded(args)


def _guarded(args: argparse.Namespace) -> int:
    """Turn the errors that a user can mend into a message, and leave the others their traceback."""
    try:
        return args.run_command(args)
    except KeyboardInterrupt:
        print(
            "\nInterrupted: the same command continues from the last checkpoint.", file=sys.stderr
        )
        return 130
    except Exception as error:
        if not _mendable(error):
            raise
        print(f"flowcourse: {error}", file=sys.stderr)
        return 2
    finally:
        _leave_processes()


def _mendable(error: Exception) -> bool:
    # Imported when something went wrong, so that `doctor` runs where torch is missing.
    from flowcourse.data import DataError
    from flowcourse.training import RunError, TrainingDiverged

    mendable: list[type[Exception]] = [RunError, TrainingDiverged, DataError]
    for module, name in (("classroom", "GradingError"), ("sandbox", "NoSandbox")):
        # Only loaded by the command that grades, which has what it needs installed.
        if loaded := sys.modules.get(f"flowcourse.grading.{module}"):
            mendable.append(getattr(loaded, name))
    return isinstance(error, tuple(mendable))


def _leave_processes() -> None:
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _say(text: str) -> None:
    """Print once, however many processes there are."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only(print)(text)


def _version() -> str:
    import flowcourse

    return f"flowcourse {flowcourse.__version__}"
