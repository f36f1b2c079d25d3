"""Learns from a latent store: gate, transforms, task networks, training, evaluation."""
