"""Shell completion: the script that is printed makes the shell ask decad, and decad answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from decad.cli.main import cli

MAIN = f"#!{sys.executable}\nfrom decad.cli.main import main\nmain()\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_decad(shell: str) -> None:
    shown = CliRunner().invoke(cli, ["completion", shell])
    assert shown.exit_code == 0
    assert f"_DECAD_COMPLETE={shell}_complete" in shown.output


@pytest.mark.timeout(60)
def test_bash_completes_a_command_by_it(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not here")
    program = tmp_path / "decad"
    program.write_text(MAIN, encoding="utf-8")
    program.chmod(0o755)
    typed = """
        eval "$(decad completion bash)"
        COMP_WORDS=(decad nei) COMP_CWORD=1
        _decad_completion decad
        echo "${COMPREPLY[@]}"
    """
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        [bash, "-c", typed],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["neighbors", "neighbours"], done.stderr
