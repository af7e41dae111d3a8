"""What may be written under `model:`; the union at the end is the list of model families."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from attnsearch.config.base import Settings


class BackboneSettings(Settings):
    """What every family on a timm backbone shares."""

    backbone: str = Field(
        default="resnet50",
        min_length=1,
        description="timm name of the backbone, with or without a weight tag; the families below say which they take",
    )
    width: float = Field(
        default=1.0,
        ge=0.25,
        le=4.0,
        description="multiplier of the channels of a ResNet's stages; other than 1 only with weights: none",
    )
    weights: str = Field(
        default="none",
        min_length=1,
        description="initial backbone weights: none (random), hub (timm's pretrained ones) or the path of a file",
    )

    @model_validator(mode="after")
    def _width_needs_random_weights(self) -> Self:
        if self.width != 1.0 and self.weights != "none":
            raise ValueError(
                f"width must be 1 when weights are loaded, got width {self.width:g} with weights {self.weights!r}"
            )
        return self


class ResNetSettings(BackboneSettings):
    """What every family on a ResNet-like backbone that ends in a ReLU shares."""

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

    name: Literal["b_cnn"] = Field(default="b_cnn", description="the model family")
    n_parts: int = Field(
        default=3, ge=1, le=64, description="pooled attention maps; one more, the background, is made but never pooled"
    )


class BrNpaSettings(ResNetSettings):
    """A ResNet whose attention needs no parameters: maps are similarities to a few representative vectors."""

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


class PlainSettings(BackboneSettings):
    """Any hierarchical backbone and a linear classifier, the baseline of The Loupe; its map is the feature norm."""

    name: Literal["plain"] = Field(default="plain", description="the model family")


class LoupeSettings(BackboneSettings):
    """A hierarchical backbone (Swin, ResNet, ConvNeXt, …) whose features pass a learned gate between two stages."""

    name: Literal["loupe"] = Field(default="loupe", description="the model family")
    stage: int = Field(
        default=1, ge=0, le=3, description="stage after which the gate stands, from 0; its cells are 4, 8, 16 or 32 px"
    )
    reduction: int = Field(default=4, ge=1, le=64, description="factor by which the gate's hidden channels are fewer")
    sparsity_weight: float = Field(default=0.05, ge=0.0, description="weight of the gate's mean in the loss")
    has_sparsity: bool = Field(
        default=True,
        description="whether that term counts; false is a weight of 0, which a logarithmic axis cannot reach",
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


ModelConfig = Annotated[
    CnnSettings | BCnnSettings | BrNpaSettings | PlainSettings | LoupeSettings, Field(discriminator="name")
]
