"""`windlass` and `kubectl windlass`: the grammar of the command line, and who does what.

Errors that a user can mend are one line on standard error. Commands live in modules of their own and are
imported when called, so that `windlass validate` needs neither kubernetes nor torch.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from windlass.cli.errors import CliError

if TYPE_CHECKING:
    from windlass.cli.access import Access

EXIT_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="windlass", description="Fine-tune and pre-train language models on Kubernetes."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    offline(commands)
    online(commands)
    chat = commands.add_parser("chat", help="talk to what a job made, on this machine")
    chat.add_argument("name", help="job, or directory of a model")
    chat.add_argument("--system", help="system message")
    chat.add_argument("--say", help="say one thing and end")
    chat.add_argument("--limit", type=int, default=256, help="most tokens of an answer")
    cluster_options(chat)
    commands.add_parser("cluster", help="local cluster: up, down, status, kubeconfig", add_help=False)
    commands.add_parser("demo", help="fine-tune a real model, kill a rank, see it go on", add_help=False)
    commands.add_parser("images", help="build the container images with Docker")
    return top


def offline(commands: Any) -> None:
    """Commands on manifests."""
    texts = {
        "validate": "say what the API server would refuse, without one",
        "plan": "say what a job will do and need: ranks, steps, memory, checkpoints, time",
        "render": "print every object the operator would make",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "-f", "--file", action="append", required=True, metavar="FILE", help="YAML file, directory, or -"
        )
        if name == "plan":
            command.add_argument("--rows", type=int, help="number of training rows, where known")
            command.add_argument(
                "--model-config",
                metavar="FILE",
                help="the model's config.json, for memory and checkpoint sizes",
            )
            command.add_argument(
                "--step-seconds",
                metavar="LOW[-HIGH]",
                help="measured seconds of a step, for the duration",
            )
            command.add_argument(
                "--prices",
                metavar="FILE",
                help="chart values with prices, or the price list alone, for the cost",
            )
        if name == "render":
            command.add_argument("-n", "--namespace", help="namespace where the manifest names none")
            command.add_argument("--image", default="windlass-workload", help="workload image")
            command.add_argument("--python", default="python3", help="interpreter in it")


def online(commands: Any) -> None:
    """Commands on jobs in a cluster."""
    status = commands.add_parser("status", help="progress, checkpoints, recoveries, goodput")
    status.add_argument("name", nargs="?", help="job; all of the namespace when left out")
    status.add_argument("-w", "--watch", action="store_true", help="follow until it is finished")
    status.add_argument("--json", action="store_true", help="print status as JSON")
    logs = commands.add_parser("logs", help="what agents and ranks printed")
    logs.add_argument("name")
    logs.add_argument("--rank", type=int, help="only this rank")
    logs.add_argument("--failed", action="store_true", help="kept log of the rank that failed first")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("--tail", type=int, help="only the last lines of each pod")
    fetch = commands.add_parser("fetch", help="copy a job's output to this machine")
    fetch.add_argument("name")
    fetch.add_argument("--to", help="directory; the job's name when left out")
    report = commands.add_parser("report", help="write a run's life as one HTML file")
    report.add_argument("name", nargs="?", help="job; may be left out when -f holds one")
    report.add_argument("-o", "--output", metavar="FILE", help="HTML file, or - (default: NAME.html)")
    report.add_argument(
        "-f", "--file", metavar="FILE", help="YAML of the job with its status; needs no cluster"
    )
    for command in (status, logs, fetch, report):
        cluster_options(command)


def cluster_options(command: argparse.ArgumentParser) -> None:
    """Which cluster and namespace, as kubectl has them."""
    command.add_argument("-n", "--namespace")
    command.add_argument("--context")
    command.add_argument("--kubeconfig")


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status. CliError for what a user can mend."""
    if arguments and arguments[0] == "cluster":
        from windlass.cli.cluster import main as cluster

        return cluster(arguments[1:])
    if arguments and arguments[0] == "demo":
        from windlass.cli.demo.command import demo_command

        return demo_command(arguments[1:])
    options = parser().parse_args(arguments)
    if options.command in ("validate", "plan", "render"):
        from windlass.cli import offline as local

        return {
            "validate": local.validate_command,
            "plan": local.plan_command,
            "render": local.render_command,
        }[options.command](options)
    if options.command == "images":
        from windlass.cli.images import images_command

        return images_command(options)
    if options.command == "report":
        from windlass.cli.report import report_command

        return report_command(options, lambda: connection(options))
    return run_online(options)


def connection(options: argparse.Namespace) -> Access:
    """The cluster that the options name. Raises CliError."""
    from windlass.cli.access import connect

    return connect(kubeconfig=options.kubeconfig, context=options.context, namespace=options.namespace)


def run_online(options: argparse.Namespace) -> int:
    """Commands that (may) need a cluster."""
    from windlass.cli import chat, fetch, logs, status

    if options.command == "chat":
        return chat.chat_command(options, lambda: connection(options))
    command = {"status": status.status_command, "logs": logs.logs_command, "fetch": fetch.fetch_command}
    return command[options.command](options, connection(options))


def main(arguments: Sequence[str]) -> int:
    """Run one command; user errors are printed."""
    try:
        return run(arguments)
    except CliError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing is wrong here.
        sys.stderr.close()
        return 0


def entry() -> None:
    """Console script. What a terminal cannot show is shown escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
