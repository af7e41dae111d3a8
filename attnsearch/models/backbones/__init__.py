"""Feature extractors: ResNets, any timm model, plain ViTs."""
