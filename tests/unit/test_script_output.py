"""Numbers in what scripts print. The bars are what Keras 3.15 printed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from videolift.script_output import Line, Lines, Numbers

BAR = "\x1b[0m \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m\x1b[37m\x1b[0m \x1b[1m"
FIT = (
    "Epoch 1/2\n"
    f"\r\x1b[1m1/8{BAR}2s\x1b[0m 320ms/step - accuracy: 0.0000e+00 - loss: 0.5641" + "\b" * 72 +
    f"\r\x1b[1m8/8{BAR}0s\x1b[0m "
    "23ms/step - accuracy: 0.5312 - loss: 1.0081 - val_accuracy: 0.3750 - val_loss: 1.2650\n"
    "Epoch 2/2\n"
    f"\r\x1b[1m1/8{BAR}0s\x1b[0m 13ms/step - accuracy: 0.5000 - loss: 0.9" + "\b" * 70 + f"\r\x1b[1m8/8{BAR}0s\x1b[0m "
    "7ms/step - accuracy: 0.6312 - loss: nan - val_accuracy: 0.4750 - val_loss: 1.2454\n"
)  # fmt: skip
EVALUATE = f"\r\x1b[1m1/2{BAR}0s\x1b[0m 114ms/step - accuracy: 0.6 - loss: 1" + "\b" * 72 + (
    f"\r\x1b[1m2/2{BAR}0s\x1b[0m 12ms/step - accuracy: 0.5000 - loss: 1.0396\n"
)  # fmt: skip
EPOCHS = [
    *(("accuracy", 0.5312, 1), ("loss", 1.0081, 1), ("val_accuracy", 0.375, 1), ("val_loss", 1.265, 1)),
    *(("accuracy", 0.6312, 2), ("loss", "nan", 2), ("val_accuracy", 0.475, 2), ("val_loss", 1.2454, 2)),
]


def lines(*pieces: bytes) -> list[Line]:
    cut = Lines()
    return [*(line for piece in pieces for line in cut.feed(piece)), *cut.end()]


def told(text: str, **patterns: str) -> list[tuple[str, object, int]]:
    numbers = Numbers(patterns)
    found = [metric for line in lines(text.encode()) for metric in numbers.read(line.text)]
    return [(one.key, "nan" if one.value != one.value else one.value, one.step) for one in found]


def test_an_epoch_of_keras_is_told_once_with_its_number_and_an_evaluation_apart() -> None:
    assert told(FIT + EVALUATE) == [*EPOCHS, ("evaluate_accuracy", 0.5, 1), ("evaluate_loss", 1.0396, 1)]
    # One evaluation more, of as many steps as the epochs had.
    assert told(FIT + EVALUATE.replace("/2", "/8").replace("2/8", "8/8"))[-2:] == [
        ("evaluate_accuracy", 0.5, 1),
        ("evaluate_loss", 1.0396, 1),
    ]


def test_other_bars_of_keras() -> None:
    two = "Epoch 1/2\n8/8 - 0s - 21ms/step - accuracy: 0.53 - loss: 0.98\nEpoch 2/2\n8/8 - 0s - loss: 0.5\n"
    assert told(two) == [("accuracy", 0.53, 1), ("loss", 0.98, 1), ("loss", 0.5, 2)]
    old = "Epoch 3/9\n 4/10 [===>......] - ETA: 0s - loss: 2.0\b\b\b\r10/10 [======] - 1s 5ms/step - loss: 1.5e-3\n"
    assert told(old) == [("loss", 0.0015, 3)]
    unknown = "Epoch 1/2\n\r      1/Unknown \x1b[1m0s\x1b[0m 22ms/step - loss: 0.49some warning\n"
    assert told(unknown + f"\r10/10{BAR}0s 1ms/step - top 5: 0.7 - loss: 0.4503\n") == [
        ("top_5", 0.7, 1),
        ("loss", 0.4503, 1),
    ]
    # Of one epoch alone there is no head, and each call of fit is an epoch.
    assert told("1/1 - 0s - loss: 0.4 - val_loss: 0.5\n1/1 - 0s - loss: 0.3 - val_loss: 0.6\n") == [
        *(("loss", 0.4, 1), ("val_loss", 0.5, 1), ("loss", 0.3, 2), ("val_loss", 0.6, 2)),
    ]


def test_epochs_of_a_second_training_go_on_after_those_of_the_first() -> None:
    first = "Epoch 1/2\n8/8 - 0s - loss: 3\nEpoch 2/2\n8/8 - 0s - loss: 2\n"
    second = "Epoch 1/3\n4/4 - 0s - loss: 1\nEpoch 2/3\n4/4 - 0s - loss: 0.5\n"
    assert told(first + second) == [("loss", 3.0, 1), ("loss", 2.0, 2), ("loss", 1.0, 3), ("loss", 0.5, 4)]
    assert told("1/1 - 0s - loss: 4 - val_loss: 4\n" + first)[2:] == [("loss", 3.0, 2), ("loss", 2.0, 3)]
    # One that goes on from a checkpoint says so itself, and a head that is printed twice is one.
    assert told(first + "Epoch 3/4\nEpoch 3/4\n8/8 - 0s - loss: 1\n")[-1] == ("loss", 1.0, 3)
    # Without validation, one epoch at a time, whether or not it is told how far each is.
    bars = "".join(f"\r1/8{BAR}0s 1ms/step - loss: 9\r8/8{BAR}0s 1ms/step - loss: {loss}\n" for loss in (3, 2, 1))
    assert told(bars) == [("loss", 3.0, 1), ("loss", 2.0, 2), ("loss", 1.0, 3)]
    assert told("8/8 - 0s - loss: 3\n8/8 - 0s - loss: 2\n3/3 - 0s - loss: 5\n") == [
        *(("loss", 3.0, 1), ("loss", 2.0, 2), ("evaluate_loss", 5.0, 1)),
    ]


def test_epochs_may_be_counted_from_0() -> None:
    text = "".join(f"[{n}] loss={3 - n}\n" for n in range(3))
    assert told(text, loss=r"\[(?P<step>\d+)\] loss=(\S+)") == [("loss", 3.0, 0), ("loss", 2.0, 1), ("loss", 1.0, 2)]
    heads = "".join(f"Epoch {n}/2\nloss={3 - n}\n" for n in range(3))
    assert told(heads, loss=r"loss=(\S+)") == [("loss", 3.0, 0), ("loss", 2.0, 1), ("loss", 1.0, 2)]
    assert told(heads + heads, loss=r"loss=(\S+)")[3:] == [("loss", 3.0, 3), ("loss", 2.0, 4), ("loss", 1.0, 5)]


def test_expressions_that_find_no_number_are_told() -> None:
    numbers = Numbers({"loss": r"loss: (\S+)", "acc": r"acc (\S+)", "lr": r"lr (\S+)"})
    for line in ("loss: 0.3,", "loss: 0.2,", "lr 0.1,", "lr 0.1"):
        numbers.read(line)
    assert list(numbers.unmet()) == [
        "script.metrics.loss: matched 2 times, but '0.3,' is no number",
        "script.metrics.acc: matched no line of what the script printed",
    ]


def test_what_only_looks_like_a_bar_is_none() -> None:
    assert (
        told("3/4 of the videos - loss: 0.5\n1/1 done - accuracy: 1.0\nstep 1/1 - loss: 2\n2020/12/31 - a: 1\n") == []
    )


def test_expressions_find_other_numbers_and_their_step() -> None:
    text = "round 1: loss=1.5\nround 2: loss=0.5 loss=0.25\nloss=none\n"
    assert told(text, loss=r"loss=(\S+)") == [("loss", 1.5, 1), ("loss", 0.5, 2), ("loss", 0.25, 3)]
    assert told("[7/9] acc 0.5\n", acc=r"\[(?P<step>\d+)/\d+\] acc (\S+)") == [("acc", 0.5, 7)]
    assert told("Epoch 4/9\nF1 is 0.5\n", f1=r"F1 is (\S+)") == [("f1", 0.5, 4)]


def test_lines_that_are_drawn_over_are_known() -> None:
    found = lines(b"a\r\nb\n\nc 10%\rc 99%\b\b\b\rc done\nlast")
    assert [(line.text, line.redrawn) for line in found] == [
        *(("a", False), ("b", False), ("c 10%", True), ("c 99%", True), ("c done", False), ("last", False)),
    ]
    assert [len(line.text) for line in lines(b"x" * 40_000)] == [16_384, 16_384, 7_232]


@given(st.lists(st.integers(0, len((FIT + EVALUATE).encode()))))
def test_lines_are_the_same_however_they_come_in_pieces(cuts: list[int]) -> None:
    text = (FIT + EVALUATE).encode()
    ends = [0, *sorted(cuts), len(text)]
    assert lines(*(text[a:b] for a, b in pairwise(ends))) == lines(text)
