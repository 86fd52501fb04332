"""All that touches the two towers of CLIP: texts, their features, words."""
