"""Models: the pretrained backbone, its layers and dropout, and the part of it that one trial trains."""
