"""What tests of methods on paths share."""

import torch


def collected(method, context):
    """The rows of a round of one shard, complete."""
    with torch.no_grad():
        return method.complete(method.collect(context))


class Scores:
    """A reward that returns these numbers, a tuple per path with one for each prompt, whatever it sees."""

    latent_space = None
    differentiable = False

    def __init__(self, *scores):
        self.scores, self.seen = torch.tensor(scores), []

    def score(self, noisy):
        self.seen.append(noisy)
        return self.scores.flatten()
