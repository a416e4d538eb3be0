"""Checks what happens to a command when Ctrl-C comes early, and when nobody reads its output."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from quantnas.cli import console
from quantnas.runs.run_folder import Run

EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background
from quantnas.cli import __main__
last = sys.argv.pop(1)
class Stop:
    def find_spec(self, name, path, target=None):
        if name == last:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
__main__.main()
"""


@pytest.mark.parametrize("module", ["quantnas.cli.main", "typer", "torch"])
def test_ctrl_c_while_commands_are_loaded_is_quiet(tmp_path, module):
    """A command loads torch after it has read its options, and before it begins to work."""
    command = [sys.executable, "-c", EARLY, module, "search", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())


LIGHT = """
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
from quantnas.cli import __main__
print(*set(sys.modules) - before)
"""


def test_the_command_loads_next_to_nothing_before_ctrl_c_is_quiet():
    """Python has no handler of its own before that, so that a traceback would be shown."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-S", "-c", LIGHT, root]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "quantnas.cli.interrupts" in loaded
    assert not {"pathlib", "typing", "re", "contextlib", "importlib.util", "typer"} & {*loaded}


UNREAD = """
import os, sys
from pathlib import Path
from quantnas.cli import console
from quantnas.runs.run_folder import Run
run = Run(Path(sys.argv[1]))
for number in range(3):
    console.say(f"line {number}", run, progress=number != 1)
"""


def test_work_goes_on_when_nobody_reads_its_output(tmp_path):
    """As in `quantnas run 2>&1 | head`: every line is in the log, and the exit code is 0."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", UNREAD, str(tmp_path)]
    done = subprocess.run(command, stdout=write, stderr=write)
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "log.txt").read_text() == "line 0\nline 1\nline 2\n"


def test_printed_commands_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "my runs" / "it's"
    console.next_commands(["info", folder], ["quantize", folder, "--bits", 2])
    _, *lines = capsys.readouterr().out.splitlines()
    assert shlex.split(lines[0]) == ["quantnas", "info", str(folder)]
    assert shlex.split(lines[1])[2:] == [str(folder), "--bits", "2"]
    with console.Display("search") as watch:
        watch.begin(Run(folder))
        watch.end()
        assert shlex.split(watch.again) == ["quantnas", "search", "--resume", str(folder)]


def test_lines_about_names_that_are_no_utf_8_are_printed_and_logged(tmp_path, capsys):
    name = os.fsdecode(b"p\xff.png")
    console.say(f"photograph {name}", Run(tmp_path))
    assert capsys.readouterr().out == "photograph p\\udcff.png\n"
    assert Path(tmp_path / "log.txt").read_text() == "photograph p\\udcff.png\n"
