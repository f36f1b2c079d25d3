"""Training of the learned codec itself: its pictures, loss and checkpoints, and the weights as they
are published. It never touches a store: what a codec codes is `latent_store.codec`'s."""
