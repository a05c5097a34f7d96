"""How every command starts, fails and ends: 0 done, 1 bad input in one line, 2 bad flags."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable

PREFIX = "--config."
CURES = {
    errno.ENOSPC: "; free some space, then the same command goes on from here",
    errno.EROFS: "; name a folder that can be written",
    errno.EACCES: "; name a folder or file that you may use",
}


class _Parser(argparse.ArgumentParser):
    """argparse with whole flag names only: a typing error never becomes another flag."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; --help shows an example\n")


def parser(prog: str, about: str, example: str) -> argparse.ArgumentParser:
    """A parser whose --help ends with a runnable example."""
    return _Parser(prog=prog, description=about, epilog=f"example:\n  {example}")


def split_overrides(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The plain arguments, and `--config.a.b=v` (or `--config.a.b v`) as {"a.b": "v"}."""
    plain, overrides = [], {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith(PREFIX):
            plain.append(argument)
            continue
        name, equals, value = argument[len(PREFIX):].partition("=")
        if not equals:
            value = next(rest, None)
            if value is None:
                raise ValueError(f"{argument}: no value; write {argument}=VALUE")
        overrides[name] = value
    return plain, overrides


def one_line(error: BaseException) -> str:
    """An error's message squeezed into one line."""
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(n) for n in (error.filename, error.filename2) if n)
        cure = CURES.get(error.errno, "")
        return ": ".join(t for t in (names, f"{error.strerror}{cure}") if t)
    return " ".join(str(error).split()) or type(error).__name__


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main(arguments)` and ends the process with the exit code that fits.

    ValueError and OSError are what bad input, bad values and bad files raise: one line, exit 1.
    Anything else is a fault of ours and keeps its traceback. WSSSJAX_TRACEBACK=1 shows all.
    """
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        code = 130
    except (ValueError, OSError) as error:
        if os.environ.get("WSSSJAX_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 1
    else:
        code = 0
    sys.exit(code)
