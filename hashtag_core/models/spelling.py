"""Tags spelled in pieces: what turns a decoder of pieces into a decoder of the tags of the vocabulary.

Pieces are byte-pair encodings (Sennrich et al. 2016) of the vocabulary's own tags, over bytes, so that every script can be
spelled. A tag is its pieces and STOP, a post's list is its tags and END: no spelling is the beginning of another, and

    P(tag) = P(STOP | its pieces) prod_i P(piece_i | pieces before)

is a chance like that of a decoder with one sign a tag. Which tags are likely is found by beam search along the trie of
all spellings (De Cao et al. 2021, GENRE): a tag outside the vocabulary cannot be spelled.

Shapes beside those of `batches`: P signs (END, STOP, pieces), S signs of the longest spelling, M signs of a post's tags,
N rows of the trie's beam, E edges of the trie.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn

from hashtag_core.data.batches import END, PADDING
from hashtag_core.models.decoding import Step, map_rows, select_rows

State = TypeVar("State")

STOP = 1
"""The sign after the last piece of a tag; piece i is sign i + 2."""

BYTES = 256
"""Pieces that there are at least."""


class Spelling(nn.Module):
    """The spellings of all tags and their trie. They are no part of the weights: `spellings` is to be saved."""

    table_US: Tensor
    lengths_U: Tensor
    first_edge_N: Tensor
    fan_N: Tensor
    edge_sign_E: Tensor
    edge_node_E: Tensor
    edge_tag_E: Tensor

    def __init__(self, beam_width: int) -> None:
        super().__init__()
        self.beam_width = beam_width
        self.spellings: list[list[int]] = []
        self.set([])

    def learn(self, tags: Sequence[str], pieces: int) -> None:
        """Learn at most `pieces` pieces on the tags, and spell them; the same tags are always spelled alike."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(tags, trainer)
        self.set([[piece + 2 for piece in spelled.ids] for spelled in tokenizer.encode_batch(list(tags))])

    def set(self, spellings: list[list[int]]) -> None:
        """Take spellings, signs without STOP, one a tag and no two alike."""
        self.spellings = spellings
        rows = [[END], *([*signs, STOP] for signs in spellings)]
        longest = max(map(len, rows))
        children: list[dict[int, int]] = [{}]
        ends: list[int] = [-1]
        for tag, signs in enumerate(rows[1:]):
            node = 0
            for sign in signs:
                if sign not in children[node]:
                    children[node][sign] = len(children)
                    children.append({})
                    ends.append(-1)
                node = children[node][sign]
            ends[node] = tag
        fans = [len(edges) for edges in children]
        edges = [(sign, node) for found in children for sign, node in found.items()] or [(END, 0)]
        values = {
            "table_US": [row + [PADDING] * (longest - len(row)) for row in rows],
            "lengths_U": [len(row) for row in rows],
            "fan_N": fans,
            "first_edge_N": [0, *itertools.accumulate(fans[:-1])],
            "edge_sign_E": [sign for sign, _ in edges],
            "edge_node_E": [node for _, node in edges],
            "edge_tag_E": [ends[node] for _, node in edges],
        }
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def targets(self, sequence_BL: Tensor) -> Tensor:
        """sequence_BM of signs for one of tags (`Targets.sequence_BL`): END and PADDING as there."""
        spelled_BLS = self.table_US[sequence_BL.clamp(min=END)]
        flat_BM = spelled_BLS.masked_fill((sequence_BL == PADDING)[..., None], PADDING).flatten(1)
        filler_BM = flat_BM == PADDING
        order_BM = filler_BM.int().argsort(dim=1, stable=True)
        return flat_BM.gather(1, order_BM)[:, : int((~filler_BM).sum(1).max())]

    def tag_step(self, step: Step[State]) -> Step[State]:
        """A decoder of tags from one of signs: its logits are log P(END) and the log P(tag) of the tags that the trie's
        beam reaches, minus infinity for all others."""

        def tags(previous_B: Tensor | None, state: State) -> tuple[Tensor, State]:
            logits_BP, state = step(None, state) if previous_B is None else self._write(step, previous_B, state)
            found_BV = self._reach(step, logits_BP, state)
            end_B1 = logits_BP.float().log_softmax(-1)[:, END : END + 1]
            return torch.cat([end_B1, found_BV], dim=1), state

        return tags

    def _write(self, step: Step[State], tag_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits and state after the tags' signs and STOP."""
        lengths_B = self.lengths_U[tag_B]
        signs_BS = self.table_US[tag_B].clamp(min=END)
        logits_BP: Tensor | None = None
        for s in range(int(lengths_B.max())):
            more_B = s < lengths_B
            now = step(signs_BS[:, s], state)
            logits_BP, state = now if logits_BP is None else map_rows(_where(more_B), now, (logits_BP, state))
        assert logits_BP is not None
        return logits_BP, state

    def _reach(self, step: Step[State], logits_BP: Tensor, state: State) -> Tensor:
        """log P of the tags that the beam reaches, found_BV."""
        posts = len(logits_BP)
        found_BV = logits_BP.new_full((posts, len(self.spellings)), -math.inf, dtype=torch.float32)
        nodes_BW = torch.zeros(posts, 1, dtype=torch.int64, device=logits_BP.device)
        totals_BW = torch.zeros(posts, 1, device=logits_BP.device)
        logits_NP = logits_BP
        while True:
            logs_BWP = logits_NP.float().log_softmax(-1).view(*nodes_BW.shape, -1)
            fans_BW = self.fan_N[nodes_BW].masked_fill(totals_BW == -math.inf, 0)
            along_F = torch.arange(max(1, int(fans_BW.max())), device=fans_BW.device)
            real_BWF = along_F < fans_BW[..., None]
            edges_BWF = (self.first_edge_N[nodes_BW][..., None] + along_F).masked_fill(~real_BWF, 0)
            grown_BWF = totals_BW[..., None] + logs_BWP.gather(2, self.edge_sign_E[edges_BWF])
            tags_BWF = self.edge_tag_E[edges_BWF]
            ended_BWF = real_BWF & (tags_BWF >= 0)
            post_of, *_ = ended_BWF.nonzero(as_tuple=True)
            found_BV[post_of, tags_BWF[ended_BWF]] = grown_BWF[ended_BWF]
            open_BG = grown_BWF.masked_fill(~real_BWF | ended_BWF, -math.inf).flatten(1)
            totals_BW, best_BW = open_BG.topk(min(self.beam_width, open_BG.shape[1]), dim=1)
            if not (totals_BW > -math.inf).any():
                return found_BV
            rows_B1 = nodes_BW.shape[1] * torch.arange(posts, device=best_BW.device)[:, None]
            parents_BW = rows_B1 + best_BW // len(along_F)
            taken_BW = edges_BWF.flatten(1).gather(1, best_BW)
            nodes_BW = self.edge_node_E[taken_BW]
            logits_NP, state = step(self.edge_sign_E[taken_BW].flatten(), select_rows(state, parents_BW.flatten()))


def _where(more_B: Tensor):  # type: ignore[no-untyped-def]
    return lambda new, old: torch.where(more_B.view(-1, *[1] * (new.ndim - 1)), new, old)
