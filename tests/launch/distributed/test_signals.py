"""Signals that arrive while something must not be interrupted."""

import signal

import pytest

from bellmax.launch.distributed.signals import Interrupted, interruptible, signals_held


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


@pytest.mark.parametrize(
    ("number", "words", "code"), [(signal.SIGINT, "interrupted", 130), (15, "terminated", 143)]
)
def test_a_signal_ends_the_block_whatever_its_exception_was_turned_into(number, words, code):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def act_like_an_extension():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    for work in (act_like_an_extension, lambda: signal.raise_signal(number)):
        with pytest.raises(Interrupted) as caught, interruptible(), interruptible(lambda: "retry"):
            work()
        assert (str(caught.value), caught.value.exit_code) == (f"{words}; retry", code)
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_error_without_a_signal_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), interruptible():
        raise ZeroDivisionError
    with pytest.raises(Interrupted, match="^interrupted$"), interruptible():
        raise KeyboardInterrupt
