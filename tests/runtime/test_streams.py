"""Output that cannot be written ends no program."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from grigri_fast.runtime import streams
streams.guard()
{body}
sys.exit(streams.finish({code}))
"""
NO_SPACE = "error: stdout: No space left on device; what was printed is lost\n"
PRINT = "print('hello'); sys.stdout.flush(); print('caf\\udcff')"


def run(redirection: str, body: str = PRINT, code: int = 0) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a program whose streams a shell has redirected."""
    program = PROGRAM.format(body=body, code=code)
    line = f'set -o pipefail; "$0" -c "$1" {redirection}'
    words = ["bash", "-c", line, sys.executable, program]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        ("", (0, "hello\ncaf\\udcff\n", "")),
        ("> /dev/full", (1, "", NO_SPACE)),
        ("> /dev/full 2> /dev/full", (1, "", "")),
        ("> /dev/full 2>&-", (1, "", "")),
        ("2> /dev/full", (0, "hello\ncaf\\udcff\n", "")),
        (">&-", (0, "", "")),
        ("2>&-", (0, "hello\ncaf\\udcff\n", "")),
        (">&- 2>&-", (0, "", "")),
        ("<&- >&- 2>&-", (0, "", "")),
    ],
)
def test_what_cannot_be_written_is_told_once(redirection: str, expected: tuple) -> None:
    assert run(redirection) == expected


def test_an_error_of_the_program_keeps_its_code() -> None:
    assert run("> /dev/full", code=2) == (2, "", "")


def test_a_traceback_on_a_full_stderr_is_no_second_one() -> None:
    assert run("2> /dev/full", "raise LookupError")[0] == 1


def test_a_closed_number_is_not_given_to_the_next_file(tmp_path) -> None:
    file = tmp_path / "precious"
    body = f"file = open({str(file)!r}, 'w'); assert file.fileno() > 2; print('hello')"
    body += "; os.write(1, b'from a library'); os.write(2, b'from a library')"
    assert run("<&- >&- 2>&-", body) == (0, "", "")
    assert file.read_text() == ""


def test_stdin_that_is_closed_is_empty() -> None:
    assert run("<&-", "print(repr(sys.stdin.buffer.read()))") == (0, "b''\n", "")


LOST = "import time; time.sleep(0.3)\nprint('hello'); sys.stdout.flush()"


def test_a_lost_reader_ends_the_program_in_silence() -> None:
    body = f"{LOST}\nprint('never', file=sys.stderr)"
    code, _, err = run("| true", body)
    assert code != 0 and "never" not in err


def test_a_lost_reader_does_not_end_what_is_to_go_on() -> None:
    body = f"streams.keep_going()\n{LOST}\nprint('went on', file=sys.stderr)"
    assert run("| true", body) == (141, "", "went on\n")


def test_a_stream_that_does_not_block_loses_nothing() -> None:
    """A terminal that another program has set to non-blocking takes a part at a time."""
    body = "os.set_blocking(1, False); print('x' * 3_000_000)"
    code, out, err = run("| cat", body)
    assert (code, len(out), err) == (0, 3_000_001, "")
