"""Makes the vision and text towers of stage (a) and runs them over pictures that are patches already.

Legend: B pictures, T texts, N patches of a picture, F values of a patch, D vision width, P joint width.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from pipeline.models.demo.tokenizers import IMAGE_PX, PATCH_PX
from pipeline.train_demo.start import set_start

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 128


def make_clip(tokenizer: CLIPTokenizer, seed: int) -> CLIPModel:
    """Make an untrained CLIP: 1.3 M vision parameters in six layers; LLaVA reads the output of the fifth."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=128,
    )
    text = CLIPTextConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=128,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    clip = CLIPModel(
        CLIPConfig(projection_dim=128, vision_config=vision.to_dict(), text_config=text.to_dict())
    )
    set_start(clip.vision_model, torch.Generator().manual_seed(seed))
    return clip


def normalize(patches_BNF: Tensor) -> Tensor:
    """Normalise uint8 values as the image processor does."""
    mean, std = (torch.tensor(values).repeat_interleave(PATCH_PX**2) for values in (MEAN, STD))
    device = patches_BNF.device
    return (patches_BNF.float() / 255 - mean.to(device)) / std.to(device)


def hidden_states(clip: CLIPModel, patches_BNF: Tensor) -> list[Tensor]:
    """Compute all hidden states [B, 1 + N, D] of `CLIPVisionModel` but the last; see `last_cls` for that."""
    tower = clip.vision_model
    embeddings = tower.embeddings
    patches_BND = functional.linear(normalize(patches_BNF), embeddings.patch_embedding.weight.flatten(1))
    cls_B1D = embeddings.class_embedding.expand(len(patches_BND), 1, -1)
    seen_BND = torch.cat([cls_B1D, patches_BND], 1) + embeddings.position_embedding.weight
    states = [tower.pre_layrnorm(seen_BND)]
    for layer in tower.encoder.layers[:-1]:
        states.append(layer(states[-1], attention_mask=None))
    return states


def last_cls(clip: CLIPModel, before_last: Tensor) -> Tensor:
    """Compute CLS [B, D] of the last hidden state; nothing else of the last layer is used, or computed."""
    layer = clip.vision_model.encoder.layers[-1]
    attention = layer.self_attn
    normed = layer.layer_norm1(before_last)
    query, key, value = (
        project(tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project, tokens in (
            (attention.q_proj, normed[:, :1]),
            (attention.k_proj, normed),
            (attention.v_proj, normed),
        )
    )
    attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    cls_B1D = before_last[:, :1] + attention.out_proj(attended)
    cls_BD: Tensor = (cls_B1D + layer.mlp(layer.layer_norm2(cls_B1D)))[:, 0]
    return cls_BD


def text_embeds(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Compute CLIP's text_embeds [T, P]; a text that occurs several times is encoded once."""
    unique = list(dict.fromkeys(texts))
    tokens = tokenizer(unique, padding=True, truncation=True, max_length=77, return_tensors="pt")
    tokens = tokens.to(clip.device)
    pooled: Tensor = clip.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    place = {text: number for number, text in enumerate(unique)}
    return pooled[[place[text] for text in texts]]
