"""The text tower without the padding: open_clip computes every caption at the full length."""

# B batch, L text tokens, n tokens of the longest caption of a group, D embedding width

import open_clip
import torch
from torch import Tensor, nn

CAPTIONS_AT_ONCE = 32  # sorted by length, so that a long caption lengthens few others


def encode_text(model: nn.Module, tokens: Tensor, device: torch.device) -> Tensor:
    """As `model.encode_text(tokens)` up to the order of summation; (B, L) int64 to (B, D).

    Attention is causal, so what follows a caption's end cannot change its embedding. Captions are
    sorted by length and encoded in groups, each as long as its longest caption. A model that is
    not built like OpenAI's CLIP gets all tokens.
    """
    if len(tokens) == 0 or not _reads_embedding_at_end(model):
        return model.encode_text(tokens.to(device))  # type: ignore[operator,no-any-return]
    ends, order = tokens.argmax(dim=-1).sort(stable=True)  # the end token has the highest id
    groups = torch.split(tokens[order].to(device), CAPTIONS_AT_ONCE)
    longest = [int(group[-1]) + 1 for group in torch.split(ends, CAPTIONS_AT_ONCE)]
    embeds = [_encode(model, group[:, :n]) for group, n in zip(groups, longest, strict=True)]
    return torch.cat(embeds)[order.argsort().to(device)]


def _reads_embedding_at_end(model: nn.Module) -> bool:
    return (
        isinstance(model, open_clip.CLIP)
        and model.attn_mask is not None
        and model.text_pool_type == "argmax"
        and isinstance(model.text_projection, nn.Parameter)
    )


def _encode(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Tokens (B, n) int64 of captions that end by then; (B, D)."""
    n = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:n]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:n, :n]))
    rows = torch.arange(len(tokens), device=tokens.device)
    return x[rows, tokens.argmax(dim=-1)] @ model.text_projection  # type: ignore[no-any-return]
