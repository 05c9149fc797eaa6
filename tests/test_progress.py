"""What long work shows on a terminal, and in a log."""

import io
import subprocess
import sys

import pytest

from ctcspeech.progress import Progress, format_duration


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def shown(self):
        """What a terminal of one live line holds in the end, by the two sequences that redraw."""
        lines = [""]
        text = self.getvalue()
        for hidden in ("\x1b[?25l", "\x1b[?25h"):  # the cursor
            text = text.replace(hidden, "")
        while text:
            if text.startswith("\r\x1b[2K"):
                lines[-1], text = "", text[5:]
            elif text.startswith("\x1b[1A\x1b[2K"):
                lines[-2:], text = [""], text[8:]
            elif text[0] == "\r":
                text = text[1:]
            elif text[0] == "\n":
                lines, text = [*lines, ""], text[1:]
            else:
                lines[-1], text = lines[-1] + text[0], text[1:]
        return "\n".join(lines)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told."""
    now = [100.0]
    monkeypatch.setattr("ctcspeech.progress.time.monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("NO_COLOR", "1")  # bold and dim are told by TERM
    monkeypatch.setenv("TERM", "xterm")
    return now


def test_a_log_has_messages_and_one_line(clock):
    log = io.StringIO()
    with Progress("transcribing", 4, "file", total_seconds=400, stream=log) as progress:
        for _ in range(4):
            clock[0] += 5
            progress.advance(1, 100)
        progress.message("b.wav: damaged")
        progress.note = "done"
    assert log.getvalue() == (
        "b.wav: damaged\n"
        "transcribing: 4/4 files, 6:40 of audio, 20.0x real time, 0:20 elapsed, done\n"
    )


def test_a_terminal_shows_speed_and_time_left_by_the_audio(clock):
    terminal = Terminal()
    with Progress("transcribing", 4, "file", total_seconds=400, stream=terminal) as progress:
        clock[0] += 10
        progress.advance(1, 100)  # a quarter of the audio
        assert "transcribing: 1/4 files, 1:40 of audio, 10.0x real time, 0:30 left" in (
            terminal.shown()
        )
        progress.message("b [red]1[/red].wav: damaged")
        clock[0] += 10
        progress.advance(3, 300)
    assert terminal.shown() == (
        "b [red]1[/red].wav: damaged\n"
        "transcribing: 4/4 files, 6:40 of audio, 20.0x real time, 0:20 elapsed\n"
    )


def test_an_unknown_total_and_items_without_audio(clock):
    terminal = Terminal()
    progress = Progress("counting", unit="n-gram", stream=terminal)
    clock[0] += 2
    progress.advance(10)
    assert "counting: 10 n-grams, 5.0 n-grams/s, 0:02 elapsed" in terminal.shown()
    progress.clear()
    assert terminal.shown() == ""


def test_a_line_longer_than_the_terminal_does_not_wrap(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    progress = Progress("x" * 200, 2, stream=terminal)
    clock[0] += 1
    progress.advance(1)
    assert len(terminal.shown()) <= 60 and "xxx" in terminal.shown()
    progress.clear()


def test_at_most_ten_drawings_a_second(clock):
    terminal = Terminal()
    progress = Progress("working", 1000, stream=terminal)
    for _ in range(1000):
        clock[0] += 0.001
        progress.advance()
    progress.clear()
    assert 9 <= terminal.getvalue().count("working") <= 11


def test_nothing_is_imported_where_nothing_is_drawn():
    code = """
import io, sys
from ctcspeech.progress import Progress
with Progress("x", 2, stream=io.StringIO()) as progress:
    progress.advance()
print("rich" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_format_duration():
    shown = {0: "0:00", 5.4: "0:05", 754: "12:34", 3723: "1:02:03", -1: "0:00"}
    assert {seconds: format_duration(seconds) for seconds in shown} == shown
