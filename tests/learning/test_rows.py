import torch

from lpobench.learning import ImagePairs, StepPairs


def rows(n, start=0):
    values = torch.arange(start, start + n, dtype=torch.float32)
    latents = values.view(-1, 1, 1, 1).expand(-1, 2, 3, 3)
    return StepPairs(latents, values, values, latents, latents, [str(int(v)) for v in values])


def test_length_is_the_number_of_rows():
    assert len(rows(3)) == 3
    assert len(rows(0)) == 0


def test_take_by_index_keeps_fields_together():
    taken = rows(4).take(torch.tensor([3, 1]))
    assert taken.t.tolist() == [3, 1]
    assert taken.winner[:, 0, 0, 0].tolist() == [3, 1]
    assert taken.prompts == ["3", "1"]


def test_take_by_mask():
    taken = rows(3).take(torch.tensor([True, False, True]))
    assert taken.t.tolist() == [0, 2]
    assert taken.prompts == ["0", "2"]


def test_take_nothing():
    taken = rows(3).take(torch.zeros(3, dtype=torch.bool))
    assert (len(taken), taken.prompts, taken.latents.shape) == (0, [], (0, 2, 3, 3))


def test_cat_of_parts_is_the_whole():
    whole = StepPairs.cat([rows(2), rows(0), rows(3, start=2)])
    assert whole.prompts == rows(5).prompts
    assert torch.equal(whole.latents, rows(5).latents)


def test_image_pairs():
    latents = torch.zeros(2, 1, 4, 4)
    pairs = ImagePairs(latents, latents, ["a", "b"])
    assert pairs.take(torch.tensor([1])).prompts == ["b"]
    assert pairs.to(torch.device("cpu")).winner.device.type == "cpu"


def test_shards_are_merged_into_the_order_of_one():
    """Steps at t 9, 5 and 1; the shards hold prompts a b and c, and not every step of them."""
    whole = rows(7)
    names, t = ["9a", "9b", "9c", "5b", "5c", "1a", "1c"], torch.tensor([9.0, 9, 9, 5, 5, 1, 1])
    whole = StepPairs(whole.latents, t, t, whole.winner, whole.loser, names)
    first, second = (whole.take(torch.tensor(index)) for index in ([0, 1, 3, 5], [2, 4, 6]))
    merged = StepPairs.merge([first, second])
    assert merged.prompts == names
    assert torch.equal(merged.winner, whole.winner)
    assert StepPairs.merge([whole]) is whole
    pairs = [ImagePairs(torch.zeros(n, 1, 4, 4), torch.zeros(n, 1, 4, 4), ["p"] * n) for n in (2, 1)]
    assert len(ImagePairs.merge(pairs)) == 3


def test_rows_are_counted_by_timestep_from_noise_to_image():
    times = torch.tensor([51.0, 951.0, 952.38095, 951.0])
    counted = rows(4)
    counted = StepPairs(counted.latents, times, times, counted.winner, counted.loser, counted.prompts)
    assert counted.by_timestep() == {"952.381": 1, "951": 2, "51": 1}
    assert list(counted.by_timestep()) == ["952.381", "951", "51"]
    assert rows(0).by_timestep() == {}
