r"""A recurrent conditioner: one cell reads the numbers in turn, and remembers.

Book: `book/autoregressive_flows/transformers.md`. Source: Papamakarios et al. (2021),
arXiv:1912.02762, section 3.1.2.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.autoregressive_flows.maf import Conditioner, equal_blocks

__all__ = ["RecurrentConditioner"]


class RecurrentConditioner(Conditioner):
    r"""$h_d = \text{write}(s_d)$ with a state $s_{d+1} = \text{GRU}(x_d, s_d)$, $s_1$ learned.

    The parameters of $x_d$ are written *before* the cell reads $x_d$: reading first would be the
    mistake that makes the Jacobian's diagonal wrong. The cell is the same for all numbers, so its
    size does not depend on how many there are, and the state of a conditioner of 5 dimensions can
    be loaded into one of 50.

    `forward` has as many steps as the inverse, one after the other, where a masked network has one
    pass. `one_by_one` keeps the state: every step is taken once.

    Args:
        dims: number of dimensions.
        outputs: parameters of each dimension.
        state: numbers that the cell remembers.

    Source: Papamakarios et al. (2021), section 3.1.2 (recurrent conditioners).
    """

    def __init__(self, dims: int, outputs: int, state: int):
        super().__init__(equal_blocks(dims, dims))
        self.start = nn.Parameter(0.1 * torch.randn(state))
        self.cell = nn.GRU(1, state, batch_first=True)
        self.write = nn.Linear(state, outputs)

    def forward(self, x, context=None):
        states = self._start(x)[:, None]
        if x.shape[1] > 1:
            states = torch.cat([states, self._states(x[:, :-1], states[:, 0])], dim=1)
        return self.write(states).transpose(1, 2).flatten(1)

    def one_by_one(self, like, context=None):
        state = self._start(like)
        while True:
            found = yield self.write(state)
            state = self._states(found, state)[:, -1]

    def _start(self, x: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch state"]:
        return self.start.expand(x.shape[0], -1)

    def _states(
        self, x: Float[Tensor, "batch steps"], state: Float[Tensor, "batch state"]
    ) -> Float[Tensor, "batch steps state"]:
        """The state after each number."""
        return self.cell(x[:, :, None], state[None].contiguous())[0]
