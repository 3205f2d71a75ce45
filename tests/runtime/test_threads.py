"""A program that ends while a thread hangs on a file."""

import subprocess
import sys

import pytest

PROGRAM = """
import threading
from grigri_fast.runtime import threads

pool = threads.file_pool(2, "reader")
pool.submit(lambda: None).result()
if HANGS:
    pool.submit(threading.Event().wait)
pool.shutdown(wait=False)
print("done")
threads.leave(3)
"""


@pytest.mark.parametrize("hangs", [True, False])
def test_it_ends_with_its_exit_code_and_all_its_output(hangs: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"HANGS = {hangs}\n{PROGRAM}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")


def test_other_threads_and_what_is_to_be_done_at_exit_come_before_the_end() -> None:
    program = """
import atexit, threading, time
from grigri_fast.runtime import threads

class Big:
    def __del__(self):
        print("taken down")

big = Big()
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
threads.leave(3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "thread\nat exit\n", "")
