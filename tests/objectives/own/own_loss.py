"""An objective as a user would write it: likely tokens count less (Lin et al. 2017, arXiv 1708.02002)."""

from bottega.batch import Loss, Term
from bottega.objectives.sft import Sft


class Focal(Sft):
    sharpness: float = 1.0

    def loss(self, scores, batch):
        logp = scores["logp"]
        focal = -((1 - logp.exp()) ** self.sharpness) * logp
        return Loss({"focal": Term((batch.weight * focal).sum(), "token")})
