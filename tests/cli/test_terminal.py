"""Progress without a terminal: stage and remaining time, a line every 30 s at most."""

from homodyne.cli.terminal import ProgressLines, progress_bars


def test_a_line_at_most_every_30_s():
    lines, now = [], [0.0]
    report = ProgressLines(lines.append, lambda: now[0])
    for done in range(1, 100):
        now[0] = float(done)
        report("sampling shards", done, 100)
    assert lines == [
        "sampling shards: 30 of 100, about 68 s left",
        "sampling shards: 60 of 100, about 39 s left",
        "sampling shards: 90 of 100, about 10 s left",
    ]
    now[0] = 130.0
    report("certificate", 0, 1000)  # a stage that has just begun has no rate
    assert lines[3:] == ["certificate: 0 of 1000"]
    now[0] = 190.0
    report("certificate", 10, 1000)
    assert lines[4:] == ["certificate: 10 of 1000, about 2 h left"]
    report("polish", 1, 3)
    assert len(lines) == 5


def test_nothing_is_said_of_what_is_short(capsys):
    with progress_bars() as report:
        report("pilot fit", 1, 2)
    assert capsys.readouterr().err == ""
