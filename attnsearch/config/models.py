"""What may be written under `model:`; the union at the end is the list of model families."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from attnsearch.config.base import Settings


class ResNetSettings(Settings):
    """What every family on a ResNet-like backbone shares."""

    backbone: str = Field(
        default="resnet50",
        min_length=1,
        description="timm name of a ResNet-like body that ends in a ReLU, with or without a weight tag",
    )
    width: float = Field(
        default=1.0,
        ge=0.25,
        le=4.0,
        description="multiplier of the channels of the backbone's stages; other than 1 only with weights: none",
    )
    weights: str = Field(
        default="none",
        min_length=1,
        description="initial backbone weights: none (random), hub (timm's pretrained ones) or the path of a file",
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

    @model_validator(mode="after")
    def _width_needs_random_weights(self) -> Self:
        if self.width != 1.0 and self.weights != "none":
            raise ValueError(
                f"width must be 1 when weights are loaded, got width {self.width:g} with weights {self.weights!r}"
            )
        return self


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


ModelConfig = Annotated[CnnSettings | BCnnSettings | BrNpaSettings, Field(discriminator="name")]
