"""What may be written under `model:`; the list at the end is that of the package's model families."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from attnsearch.config.base import Registered, Settings, register_part
from attnsearch.geometry import Size


def _checked_grid(grid: int | Size) -> int | Size:
    """[N, N] is N, so that both ways to write a square are one setting."""
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    if not all(1 <= side <= 128 for side in (rows, columns)):
        raise ValueError(f"must be from 1 to 128 rows and columns, got {grid}")
    return rows if rows == columns else (rows, columns)


PositionGrid = Annotated[int | Size, AfterValidator(_checked_grid)]


class BackboneSettings(Settings):
    """What every family shares; a family of your own adds `name: Literal["mine"] = "mine"` and its fields.

    Attributes:
        figure_kinds: figure types that its maps can be drawn as, beside those of any saliency: `parts` (each of the
            default maps a part), `heads` (maps named `cls_head_1` or `layer_1/predicted/head_1`, …), `layers`
            (`layer_1/predicted/mean` or `rollout_1`, …), `branches` (`rollout` and `glca`), `patches` (`rollout` and
            `local_patches`), `classes` (the saliency depends on the class).
    """

    figure_kinds: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """The model family."""

    backbone: str = Field(
        default="resnet50",
        min_length=1,
        description="timm name of the backbone, with or without a weight tag; the families below say which they take",
    )
    width: float = Field(
        default=1.0,
        ge=0.25,
        le=4.0,
        description="multiplier of the channels of a ResNet's stages; must be 1 with weights: hub",
    )
    weights: str = Field(
        default="none",
        min_length=1,
        description="initial backbone weights: none (random), hub (timm's pretrained ones), the path of a file, or "
        "study:NAME for the backbone of the best trial of a study of the experiment",
    )

    @model_validator(mode="after")
    def _width_is_not_published(self) -> Self:
        if self.width != 1.0 and self.weights == "hub":
            raise ValueError(f"width must be 1 with weights 'hub', got width {self.width:g}; write weights: none")
        return self

    @property
    def needs_masks(self) -> bool:
        """Whether training needs the part masks of the images."""
        return False

    @property
    def min_images_at_once(self) -> int:
        """Images that training must see together at least."""
        return 1

    @property
    def n_known_cameras(self) -> int | None:
        """Cameras that it can tell apart, which every image must then name one of; None where it asks for none."""
        return None

    def unused_parameters(self) -> dict[str, str]:
        """Fields that cannot change a prediction under the other settings, each with the reason not to search it."""
        return {}

    def missing_figures(self) -> dict[str, str]:
        """Types of `figure_kinds` that cannot be drawn under these settings, each with what it needs."""
        return {}


class ResNetSettings(BackboneSettings):
    """What every family on a ResNet-like backbone that ends in a ReLU shares."""

    stride_stage2: Literal[1, 2] = Field(
        default=2,
        description="stride of the backbone's second stage; 1 doubles the side of the maps",
        exclude_if=lambda stride: stride == 2,  # files and digests are older than this field
    )
    stride_stage3: Literal[1, 2] = Field(
        default=2, description="stride of the backbone's third stage; 1 doubles the side of the maps"
    )
    stride_stage4: Literal[1, 2] = Field(
        default=2, description="stride of the backbone's fourth stage; 1 doubles the side of the maps"
    )
    padding: Literal["zeros", "circular"] = Field(
        default="zeros",
        description="padding of the 3x3 convolutions inside residual blocks; circular is that of BR-NPA's authors",
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="dropout rate before the classifier")
    head_bias: bool = Field(default=False, description="whether the classifier has a bias")


class CnnSettings(ResNetSettings):
    """A ResNet whose features are averaged over the image; its map is the feature norm."""

    name: Literal["cnn"] = Field(default="cnn", description="the model family")


class BCnnSettings(ResNetSettings):
    """A ResNet with learned attention maps (bilinear pooling), the baseline of BR-NPA."""

    figure_kinds = ("parts",)
    name: Literal["b_cnn"] = Field(default="b_cnn", description="the model family")
    n_parts: int = Field(
        default=3, ge=1, le=64, description="pooled attention maps; one more, the background, is made but never pooled"
    )


class BrNpaSettings(ResNetSettings):
    """A ResNet whose attention needs no parameters: maps are similarities to a few representative vectors."""

    figure_kinds = ("parts",)
    name: Literal["br_npa"] = Field(default="br_npa", description="the model family")
    n_vectors: int = Field(default=3, ge=1, le=64, description="representative vectors, each with its map")
    refine: bool = Field(
        default=True, description="whether a vector is the mean of all pixels similar to its seed pixel, or that pixel"
    )
    random_vectors: bool = Field(
        default=False, description="whether seed pixels are drawn at random instead of by activity (ablation)"
    )
    auxiliary_heads: bool = Field(
        default=False,
        description="whether five detached classifiers probe the vectors alone and in pairs; only with n_vectors: 3",
    )

    @model_validator(mode="after")
    def _auxiliary_heads_need_three_vectors(self) -> Self:
        if self.auxiliary_heads and self.n_vectors != 3:
            raise ValueError(f"auxiliary_heads needs n_vectors 3, got n_vectors {self.n_vectors}")
        return self


class HierarchicalSettings(BackboneSettings):
    """What the families on a hierarchical backbone share."""

    last_stride: Literal[1, 2] = Field(
        default=2,
        description="stride of the last stage of a ResNet; 1 doubles the side of its maps, as re-identification does",
        exclude_if=lambda stride: stride == 2,  # files and digests are older than this field
    )


class PlainSettings(HierarchicalSettings):
    """Any hierarchical backbone and a linear classifier, the baseline of The Loupe; its map is the feature norm."""

    name: Literal["plain"] = Field(default="plain", description="the model family")


class LoupeSettings(HierarchicalSettings):
    """A hierarchical backbone (Swin, ResNet, ConvNeXt, …) whose features pass a learned gate between two stages."""

    name: Literal["loupe"] = Field(default="loupe", description="the model family")
    stage: int = Field(
        default=1,
        ge=0,
        le=3,
        description="stage after which the gate stands, from 0; its cells are 4, 8, 16 or 32 px, the last ones half of "
        "that with last_stride: 1",
    )
    reduction: int = Field(default=4, ge=1, le=64, description="factor by which the gate's hidden channels are fewer")
    sparsity_weight: float = Field(default=0.05, ge=0.0, description="weight of the gate's mean in the loss")
    has_sparsity: bool = Field(
        default=True,
        description="whether that term counts; false is a weight of 0, which a logarithmic range cannot reach",
    )
    mask_weight: float = Field(
        default=0.0,
        ge=0.0,
        description="weight in the loss of the gate's mean outside of the part masks, which the data must then have",
    )
    initial_gate_bias: float = Field(
        default=0.0,
        ge=-10.0,
        le=10.0,
        description="added to the gate's random initial bias; 0 starts the gate near a half, as published, 2 near 0.9",
    )

    @property
    def needs_masks(self) -> bool:
        return self.mask_weight > 0.0


class IntrSettings(BackboneSettings):
    """A transformer with one query per class on any backbone; a class is where its query looks in the image."""

    figure_kinds = ("heads", "classes", "layers")
    name: Literal["intr"] = Field(default="intr", description="the model family")
    weights: str = Field(
        default="none",
        min_length=1,
        description="initial weights: none (random), hub (timm's for the backbone) or the path of a file with those of "
        "the backbone or a whole DETR",
    )
    frozen_batch_norm: bool = Field(
        default=False,
        description="whether batch norms, stem and first stage stay as loaded, as published; only for ResNets",
    )
    n_encoder_layers: int = Field(default=6, ge=1, le=24, description="encoder layers")
    n_decoder_layers: int = Field(default=6, ge=1, le=24, description="decoder layers; the last one gives the maps")
    d_model: int = Field(default=256, ge=4, description="channels of a token; a multiple of 4 and of n_heads")
    n_heads: int = Field(default=8, ge=1, description="attention heads")
    feedforward_width: int = Field(default=2048, ge=1, description="hidden channels of the feed-forward layers")
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0, description="dropout rate in encoder and decoder")

    @model_validator(mode="after")
    def _tokens_divide(self) -> Self:
        if self.d_model % 4 or self.d_model % self.n_heads:
            raise ValueError(f"d_model must be a multiple of 4 and of n_heads {self.n_heads}, got {self.d_model}")
        return self

    @model_validator(mode="after")
    def _frozen_needs_weights(self) -> Self:
        if self.frozen_batch_norm and self.weights == "none":
            raise ValueError(
                "frozen_batch_norm must be false when the weights are random, got true with weights 'none'"
            )
        return self


class DcalSettings(BackboneSettings):
    """A ViT with global-local (GLCA) and pair-wise cross-attention (PWCA) beside its self-attention (SA)."""

    figure_kinds = ("heads", "layers", "branches", "patches")
    name: Literal["dcal"] = Field(default="dcal", description="the model family")
    backbone: str = Field(
        default="deit_tiny_patch16_224",
        min_length=1,
        description="timm name of a plain ViT or DeiT with a class token, with or without a weight tag",
    )
    width: float = Field(
        default=1.0,
        ge=0.25,
        le=4.0,
        description="multiplier of the backbone's heads, each of which keeps its channels; other than 1 only with "
        "weights: none",
    )
    depth: int | None = Field(
        default=None,
        ge=2,
        le=64,
        description="blocks; null means those of the backbone, and anything else needs weights: none",
    )
    stem: Literal["patch", "conv"] = Field(
        default="patch",
        description="patch: one convolution per patch, as pretrained; conv: a few small ones, which learn from few "
        "images, only with weights: none",
    )
    position_grid: PositionGrid | None = Field(
        default=None,
        description="rows and columns of the position embedding, N for a square or [rows, columns], each from 1 to "
        "128, best those of the patches of an image; null means those of the backbone; images of another grid resample "
        "it at every step",
    )
    patch_stride: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="pixels from one patch to the next, so that patches overlap; null means their size",
        exclude_if=lambda stride: stride is None,  # files and digests are older than this field
    )
    n_cameras: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="cameras, each of which adds a learned vector to all tokens of its images, which must name theirs "
        "at test time too; null means none",
        exclude_if=lambda n_cameras: n_cameras is None,  # files and digests are older than this field
    )
    camera_weight: float = Field(
        default=3.0,
        ge=0.0,
        description="factor on the vectors of the cameras",
        exclude_if=lambda weight: weight == 3.0,  # files and digests are older than this field
    )
    variant: Literal["full", "sa_glca", "sa_pwca", "sa_only"] = Field(
        default="full", description="the branches that exist; PWCA takes part in training only"
    )
    top_k_ratio: float = Field(
        default=0.1,
        gt=0.0,
        le=1.0,
        description="fraction of the patches that become local queries of GLCA; under glca_readout: cls it cannot "
        "change a prediction",
    )
    glca_readout: Literal["query_mean", "local_mean", "cls"] = Field(
        default="query_mean",
        description="what GLCA classifies: the mean of all its queries, of the local ones, or the class token alone as "
        "in the paper, which no other query can influence",
    )
    glca_init: Literal["copy", "random"] = Field(
        default="copy",
        description="copy: GLCA starts with the weights of the SA blocks beside it; random: with its own",
    )
    n_glca_blocks: int = Field(default=1, ge=1, le=12, description="last blocks beside which GLCA runs")
    n_pwca_blocks: int | None = Field(
        default=None, ge=1, le=64, description="last blocks that PWCA passes through; null means all"
    )
    drop_path: float = Field(
        default=0.1, ge=0.0, lt=1.0, description="rate of stochastic depth in the last block; it rises linearly from 0"
    )

    @property
    def has_glca(self) -> bool:
        """Whether the variant has global-local cross-attention."""
        return self.variant in ("full", "sa_glca")

    @property
    def has_pwca(self) -> bool:
        """Whether the variant has pair-wise cross-attention."""
        return self.variant in ("full", "sa_pwca")

    @property
    def min_images_at_once(self) -> int:
        return 2 if self.has_pwca else 1  # pairs need two

    @property
    def n_known_cameras(self) -> int | None:
        return self.n_cameras

    def unused_parameters(self) -> dict[str, str]:
        reasons: dict[str, str] = {}
        if not self.has_glca:
            keys = ("top_k_ratio", "glca_readout", "glca_init", "n_glca_blocks")
            reasons |= dict.fromkeys(keys, f"variant {self.variant!r} has no GLCA; use full or sa_glca")
        elif self.glca_readout == "cls":
            reasons["top_k_ratio"] = (
                "glca_readout 'cls' reads the class token, which never sees the picked patches, so no prediction "
                "depends on their number; use query_mean or local_mean"
            )
        if not self.has_pwca:
            reasons["n_pwca_blocks"] = f"variant {self.variant!r} has no PWCA; use full or sa_pwca"
        if self.n_cameras is None:
            reasons["camera_weight"] = "n_cameras is null, so there are no vectors to weigh; set n_cameras"
        return reasons

    def missing_figures(self) -> dict[str, str]:
        if self.has_glca:
            return {}
        return dict.fromkeys(("branches", "patches"), f"cross-attention, which the variant {self.variant} lacks")

    @model_validator(mode="after")
    def _overlap_needs_patches(self) -> Self:
        if self.patch_stride is not None and self.stem != "patch":
            raise ValueError(f"patch_stride needs stem patch, got patch_stride {self.patch_stride} with stem 'conv'")
        return self

    @model_validator(mode="after")
    def _new_shapes_need_random_weights(self) -> Self:
        if self.weights != "none" and (self.depth is not None or self.stem != "patch"):
            raise ValueError(
                f"depth must be null and stem patch when weights are loaded, got depth {self.depth} and stem "
                f"{self.stem!r} with weights {self.weights!r}"
            )
        return self


ModelConfig = Annotated[BackboneSettings, Registered("model")]

_FAMILIES: dict[type[BackboneSettings], str] = {
    CnnSettings: "br_npa",
    BCnnSettings: "br_npa",
    BrNpaSettings: "br_npa",
    PlainSettings: "loupe",
    LoupeSettings: "loupe",
    IntrSettings: "intr",
    DcalSettings: "dcal",
}
for _family, _module in _FAMILIES.items():
    register_part("model", _family, f"attnsearch.models.{_module}:build")
