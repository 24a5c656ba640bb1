"""The three-track diffusion transformer (section E.3 and appendix C of the paper).

    x (b, k*c, n) ------ project_in ---------------.
    t (b, k) ----------- one embedding a track ---- concatenated into one token, prepended
    embeddings (b, k, d) one projection a track ---- scale, shift, gate of that track's channels
                                                    in every block
    v (b, k*c, n) <----- project_out <-------------- blocks of attention and feed-forward

The transformer, its attention and its feed-forward are stable-audio-tools' own; what differs from a
SAT DiT is that norms, timesteps and conditioning work per track.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from stable_audio_tools.models.transformer import ContinuousTransformer, TransformerBlock
from torch import Tensor, nn

from mge_plugin.config import ConfigError, found
from mge_plugin.tracks import NUM_TRACKS


class Float32Module(nn.Module):
    """Follows `to`, `half` and the like to another device, not to another precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep, recurse)


_MODULATIONS = 6  # scale, shift and gate, for attention and for the feed-forward
_MIN_HEAD_WIDTH = 32  # SAT's rotary embedding turns so many channels of a head
_BYTES_PER_ACTIVATION = 114  # saved for each token, block and channel (21.8 GB at batch 64)
_BYTES_PER_PARAMETER = 12  # of a gradient and Adam's two moments
_SHARE = 0.9  # of the free memory that is used
_MAX_DEPTH = 1000  # blocks; building more would take minutes before memory ends


@dataclass(frozen=True)
class DiTConfig:
    """`model.diffusion.config`; the defaults are the paper's model (1,023,040,640 parameters)."""

    io_channels: int = 192  # latent channels of the three tracks together; paper: 3 x 64
    embed_dim: int = 1536  # width of the transformer, three tracks together; paper: 3 x 512
    depth: int = 24  # blocks; paper: 24
    num_heads: int = 48  # of attention, each 32 channels wide or more; paper: 48
    global_cond_dim: int = 512  # width of one track's embedding; paper: 512
    timestep_features_dim: int = 256  # Fourier features of a level; paper: 256
    norm_type: Literal["groupnorm", "layernorm"] = "groupnorm"  # by track or not; paper: groupnorm
    use_checkpointing: bool | Literal["auto"] = "auto"  # recompute activations; auto: if needed

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        for key in ("depth", "num_heads", "global_cond_dim"):
            if getattr(self, key) < 1:
                yield f"{key} must be 1 or more, found {getattr(self, key)}"
        if self.depth > _MAX_DEPTH:
            yield f"depth must be {_MAX_DEPTH} or less, found {found(self.depth)}"
        for key in ("io_channels", "embed_dim"):
            value = getattr(self, key)
            if value < NUM_TRACKS or value % NUM_TRACKS:
                yield f"{key} must be a multiple of {NUM_TRACKS} tracks, found {value}"
        if self.num_heads > 0 and self.embed_dim % self.num_heads:
            yield f"num_heads must divide embed_dim {self.embed_dim}, found {self.num_heads}"
        elif self.num_heads > 0 and self.embed_dim // self.num_heads < _MIN_HEAD_WIDTH:
            width = self.embed_dim // self.num_heads
            yield f"embed_dim / num_heads must be {_MIN_HEAD_WIDTH} or more, found {width}"
        features = self.timestep_features_dim
        if features < 2 or features % 2:
            yield f"timestep_features_dim must be even, found {features}"


class _TimestepFeatures(Float32Module):
    """Learned Fourier features of levels: (b, k) to (b, k, dim), in float32 as they are steep.

    The weight is a parameter on every SAT version; in SAT's own module it is one in 0.0.19 and
    fixed in 0.0.20. It stays float32 in a halved model: rounded to half precision it would turn
    angles by up to 0.1 rad. As the model's first parameter it also has SAT's samplers keep their
    state float32.
    """

    def __init__(self, dim: int, deviation: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim // 2, 1) * deviation)

    def forward(self, t: Tensor) -> Tensor:
        # a product of matrices would be one that autocast does in half precision
        angle = 2 * torch.pi * t.float()[:, :, None] * self.weight.float().squeeze(1)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class _TrackGroupNorm(nn.Module):
    """GroupNorm over (a track's channels x frames), one group per track; (b, n, k*w) in and out.

    Computed in float32 without transposing: torch's own needs channels before frames, and copies.
    """

    beta: Tensor

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))  # as SAT's bias-less LayerNorm has it
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # a view of the tracks; mean and variance are those of one (frame, channel) plane
        tracks = rearrange(x.float(), "b n (k w) -> b n k w", k=NUM_TRACKS)
        variance, mean = torch.var_mean(tracks, dim=(1, 3), keepdim=True, correction=0)
        scale = self.gamma.float().view(NUM_TRACKS, -1) * torch.rsqrt(variance + self.eps)
        shift = self.beta.float().view(NUM_TRACKS, -1) - mean * scale
        return torch.addcmul(shift, tracks, scale).flatten(2).to(x.dtype)


class _TrackLinear(nn.Conv1d):
    """One linear layer per track, without shared weights: (b, k, width) in, (b, k, out) out.

    Its weights have the published shape, of a grouped convolution over one frame, and SAT's LoRA
    treats it as such; computed as one batched product of matrices it is up to four times faster.
    """

    def __init__(self, width: int, out: int, bias: bool) -> None:
        super().__init__(NUM_TRACKS * width, NUM_TRACKS * out, 1, groups=NUM_TRACKS, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = rearrange(self.weight, "(k o) i 1 -> k o i", k=NUM_TRACKS)
        x = rearrange(x, "b k i -> k i b")
        if self.bias is None:
            y = torch.bmm(weight, x)
        else:
            y = torch.baddbmm(rearrange(self.bias, "(k o) -> k o 1", k=NUM_TRACKS), weight, x)
        return rearrange(y, "k o b -> b k o")


class _TrackBlock(TransformerBlock):
    """SAT's adaLN transformer block, its scales, shifts and gates computed track by track."""

    def __init__(self, config: DiTConfig, layer_ix: int) -> None:
        dim, width = config.embed_dim, config.embed_dim // NUM_TRACKS
        super().__init__(dim, dim // config.num_heads, global_cond_dim=dim, layer_ix=layer_ix)
        del self.to_scale_shift_gate  # SAT adds a learned constant here; the paper has none
        self.register_buffer(
            "to_scale_shift_gate", torch.zeros(_MODULATIONS * dim), persistent=False
        )
        if config.norm_type == "groupnorm":
            self.pre_norm = _TrackGroupNorm(dim)
            self.ff_norm = _TrackGroupNorm(dim)
        self.to_modulations = nn.Sequential(
            nn.SiLU(),
            Rearrange("b (k w) -> b k w", k=NUM_TRACKS),
            _TrackLinear(width, _MODULATIONS * width, bias=False),
            Rearrange("b k (m w) -> b (m k w)", m=_MODULATIONS),
        )
        nn.init.zeros_(cast(Tensor, self.to_modulations[2].weight))

    def forward(self, x: Tensor, global_cond: Tensor, **transformer_options) -> Tensor:
        """`x` (b, n, k*w); `global_cond` the modulations of all blocks (depth, b, 6*k*w).

        The options are the transformer's own (rotary embedding, masks) and differ by SAT version.
        """
        return super().forward(x, global_cond=global_cond[self.layer_ix], **transformer_options)


class MGEDiT(nn.Module):
    """Predicts `v` of the three tracks from their noised latents, levels and embeddings."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = config.use_checkpointing is True  # auto: see `needs_checkpointing`
        dim, width = config.embed_dim, config.embed_dim // NUM_TRACKS
        features, embedding = config.timestep_features_dim, config.global_cond_dim
        self.timestep_features = _TimestepFeatures(features)
        self.to_timestep_embed = _track_projection(features, width, width, bias=True)
        self.to_global_embed = _track_projection(embedding, embedding, width, bias=False)
        self.transformer = ContinuousTransformer(
            dim=dim,
            depth=0,
            dim_heads=dim // config.num_heads,
            dim_in=config.io_channels,
            dim_out=config.io_channels,
        )
        self.transformer.layers.extend(_TrackBlock(config, i) for i in range(config.depth))
        self.preprocess_conv = _zero_conv(config.io_channels)
        self.postprocess_conv = _zero_conv(config.io_channels)

    def modulate(self, embeddings: Tensor) -> Tensor:
        """Scales, shifts and gates of every block, (depth, b, 6*k*w), from embeddings (b, k, d).

        They do not depend on the timestep: once a sampling run is enough. Embeddings of zeros give
        modulations of zeros, since no layer on the way has a bias.
        """
        embeddings = self.to_global_embed(embeddings.to(self._dtype()))
        return torch.stack([layer.to_modulations(embeddings) for layer in self.transformer.layers])

    def forward(self, x: Tensor, t: Tensor, modulations: Tensor) -> Tensor:
        """`x` (b, k*c, n), `t` (b, k) from 0 clean to 1 noise, `modulations` from `modulate`.

        Returns `v` (b, k*c, n) in the precision of `x`, a sampler's state, whatever the model's.
        """
        precision, x = x.dtype, x.to(self._dtype())
        x = self.preprocess_conv(x) + x
        x = self.transformer(
            rearrange(x, "b c n -> b n c"),
            prepend_embeds=self._timestep_token(t),
            global_cond=modulations,
            use_checkpointing=self.checkpointing and torch.is_grad_enabled(),
        )
        x = rearrange(x[:, 1:], "b n c -> b c n")  # without the timestep's token
        return (self.postprocess_conv(x) + x).to(precision)

    def _timestep_token(self, t: Tensor) -> Tensor:
        """One token (b, 1, k*w) from levels (b, k)."""
        features = self.timestep_features(t)
        return self.to_timestep_embed(features.to(self._dtype()))[:, None]

    def _dtype(self) -> torch.dtype:
        return self.preprocess_conv.weight.dtype


def needs_checkpointing(network: MGEDiT, latents: Tensor) -> bool:
    """Whether the activations of a training step on `latents` (b, k, c, n) do not fit the GPU.

    What Adam and the gradients will need is counted too: the first step has neither yet.
    """
    if not latents.is_cuda:
        return False
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    tokens = latents.shape[0] * (latents.shape[-1] + 1)
    width = network.config.embed_dim * network.config.depth
    activations = _BYTES_PER_ACTIVATION * tokens * width
    free, _ = torch.cuda.mem_get_info(latents.device)
    free += torch.cuda.memory_reserved(latents.device) - torch.cuda.memory_allocated(latents.device)
    return activations + _BYTES_PER_PARAMETER * parameters > _SHARE * free


def _track_projection(width: int, hidden: int, out: int, bias: bool) -> nn.Sequential:
    """Two layers a track: (b, k, width) -> (b, k*out)."""
    return nn.Sequential(
        nn.Identity(),  # in the published weights the first layer is number 1
        _TrackLinear(width, hidden, bias),
        nn.SiLU(),
        _TrackLinear(hidden, out, bias),
        Rearrange("b k d -> b (k d)"),
    )


def _zero_conv(channels: int) -> nn.Conv1d:
    conv = nn.Conv1d(channels, channels, 1, bias=False)
    nn.init.zeros_(conv.weight)
    return conv
