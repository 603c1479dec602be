from lpobench.progress import progress


def test_without_a_terminal_a_line_every_twentieth_and_a_last_one(capsys):
    with progress(50, "scoring") as advance:
        for index in range(50):
            advance(note=f"image {index + 1}")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 25  # 50 // 20 = 2: every second
    assert lines[0].startswith("scoring 2/50 ")
    assert lines[-1].startswith("scoring 50/50 ")
    assert lines[-1].endswith("image 50")


def test_batches_and_a_start_in_the_middle(capsys):
    with progress(100, "training", done=50) as advance:
        advance(30)
        advance(1)
        advance(19)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["80/100", "100/100"]


def test_switched_off_it_says_nothing(capsys):
    with progress(2, "training", enabled=False) as advance:
        advance()
        advance(note="x")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(4, "training") as advance:
        advance(4, note="loss 0.5")
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4" in err
    assert "loss 0.5" in err
