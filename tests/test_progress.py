import sys
import time

import pytest

from prx_lab import progress

SEEN = {"disable": False}  # the tests' own environment disables tqdm


@pytest.fixture
def logged(monkeypatch, capsys):
    """A bar's place is a file that is written to every hundredth of a second."""
    for name in ("PRX_STATIC", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress, "LOGGED_EVERY", 0.01)
    return lambda: capsys.readouterr().err


def test_in_a_file_a_bar_is_a_line_now_and_then(logged):
    with progress.bar(total=3, unit="step", **SEEN) as bar:
        for loss in (3, 2, 1):
            time.sleep(0.02)
            bar.set_postfix(loss=loss, refresh=False)
            bar.update()
    lines = logged().splitlines()
    assert 2 <= len(lines) <= 5
    assert all(line.isascii() and len(line) <= 100 for line in lines)
    assert "3/3" in lines[-1] and "step" in lines[-1] and "loss=1" in lines[-1]


def test_in_a_file_nothing_moves_a_cursor(logged):
    for _ in progress.bar(range(2), **SEEN):
        for _ in progress.bar(range(3), leave=False, **SEEN):
            time.sleep(0.02)
    text = logged()
    assert "2/2" in text and "3/3" in text
    assert not {"\r", "\x1b"} & set(text) and all(line.strip() for line in text.splitlines())


def test_what_takes_no_time_is_not_told(logged, monkeypatch):
    monkeypatch.setattr(progress, "LOGGED_EVERY", 30)
    assert list(progress.bar(range(5), **SEEN)) == list(range(5))
    assert logged() == ""


def test_a_terminal_is_redrawn(logged, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(progress.bar(range(2), **SEEN))
    assert "\r" in logged()


@pytest.mark.parametrize(("name", "value"), [("PRX_STATIC", "1"), ("RANK", "1")])
def test_silent_where_outputs_are_stored_and_in_other_processes(logged, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    for _ in progress.bar(range(2), **SEEN):
        time.sleep(0.02)
    assert logged() == ""
