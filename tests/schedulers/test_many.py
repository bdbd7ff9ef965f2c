"""Fits of several files as jobs of a scheduler: the table of one after the other."""

import json
import os
from pathlib import Path

from homodyne.cli import many
from homodyne.cli.interruption import Interrupted
from homodyne.cli.program import run as homodyne
from homodyne.optimization.cmc.backends.arrays import Pace

QUICK = ["parameters.D_offset.fixed=0", "optimization.laplace.num_draws=100", "certificate.num_points=200",
         "reduction.num_checks=2", "uncertainty=independent", "output.figures=false", "output.report=false",
         "optimization.nlsq.num_candidates=100", "optimization.nlsq.num_starts=2"]  # fmt: skip


def test_files_are_fitted_by_jobs_which_outlive_an_interruption(slurm, file, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("a.h5", "c.h5"):
        Path(name).write_bytes(file.read_bytes())
    Path("b.h5").write_text("nothing")
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XLA_FLAGS")
    environment = {name: os.environ[name] for name in names}
    jobs = {"environment": environment, "memory_gb": 1.5, "walltime": "00:10:00", "max_running": 1}
    given = {"spread": slurm.name, "jobs": jobs}
    Path("jobs.yaml").write_text(json.dumps({"optimization": {"cmc": {"backend": given}}}))
    how = ["a.h5", "b.h5", "c.h5", "--mode", "static", *QUICK]
    assert homodyne(["fit", *how, "--output", "here"]) == 2
    pace = Pace.__init__
    monkeypatch.setattr(Pace, "__init__", lambda self: pace(self, 0.2, 0.5, 20.0, 0.5))  # shorter than users have
    capsys.readouterr()

    def interrupted(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(many, "_write_tables", interrupted)  # when the first has come back
        assert homodyne(["fit", "jobs.yaml", *how, "--output", "there"]) == 130
    said = capsys.readouterr().err
    assert "jobs that go on: " in caplog.text
    assert "1 of 3 fits are in there: start the same command again with --resume" in said
    assert homodyne(["fit", "jobs.yaml", *how, "--output", "there", "--resume"]) == 2
    assert len(list(Path("there").glob("fits/*/jobs/*.sh"))) <= 2  # jobs that are still there are not sent again
    for name in ("table.csv", "table.tex"):
        assert Path("there", name).read_bytes() == Path("here", name).read_bytes()
    Path("b.h5").write_bytes(file.read_bytes())
    assert homodyne(["fit", "jobs.yaml", *how, "--output", "there", "--resume"]) == 0
    assert list(Path("there/fits").iterdir()) == []
