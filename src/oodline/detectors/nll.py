"""Log-likelihood of the token that came next, of a language model (Arora et al., EMNLP 2021, Sec. 3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.detectors.paper import Paper
from oodline.model.activations import Activations, Needs


class NLL(Detector):
    """Log-likelihood of the next token: `log p(x_(t+1) | x_1 ... x_t)`. Higher = more in-distribution.

    The mean over the tokens of a text is minus the logarithm of its perplexity, which is the paper's score. For a
    language model only (`RowClassifier` with `Tokens`): it reads which token came. Range: (-inf, 0], in nats.

    Raises
    ------
    InputError
        On scoring: the classifier predicts no next token.

    Examples
    --------
    >>> import oodline as ol
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 9))
    >>> classifier = ol.RowClassifier(model, ol.Tokens(predicts="next"))
    >>> text = torch.tensor([[3, 1, 4, 1, 5]])
    >>> by_hand = model(text).log_softmax(2)[0, torch.arange(4), text[0, 1:]]
    >>> torch.allclose(NLL()(classifier(text)), by_hand, atol=1e-6)
    True
    """

    name: ClassVar = "nll"
    needs: ClassVar = Needs.LOGITS | Needs.OBSERVED
    paper: ClassVar = Paper("Types of Out-of-Distribution Texts and How to Detect Them", "EMNLP 2021", "2109.06827")
    is_log: bool = True
    not_exportable: ClassVar = "reads the token that came next, and a graph is of one token per row"

    def score(self, activations: Activations) -> Float[Tensor, " n"]:
        """Log-likelihood of the token that came (N,)."""
        z, token = activations.logits, activations.require_observed().unsqueeze(1)
        # log p = -log(1 + sum of exp(z_y - z_token) over the others): exact also where p rounds to one
        others = (z - z.gather(1, token)).scatter(1, token, -torch.inf).logsumexp(1)
        return -torch.logaddexp(others, torch.zeros_like(others))
