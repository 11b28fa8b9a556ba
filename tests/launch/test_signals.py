"""Signals that come while something must not be interrupted."""

import signal

import pytest

from bellmax.launch.signals import signals_held


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_waits_for_the_end_and_a_second_does_not():
    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    asked, reached = [], []
    with pytest.raises(KeyboardInterrupt), signals_held(lambda: asked.append(1)) as came:
        signal.raise_signal(signal.SIGINT)
        reached.append(1)
        assert came == [signal.SIGINT] and asked == [1]
        signal.raise_signal(signal.SIGINT)
        reached.append(2)
    assert reached == [1] and signal.getsignal(signal.SIGINT) is interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ignored_signal_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    asked = []
    with signals_held(lambda: asked.append(1)) as came:
        signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert came == [] and asked == []
